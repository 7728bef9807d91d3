"""Compressed bodies: unpacked within the limit of a body, or refused with the codings that are read."""

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest

from serval.api.content_coding import PIECE_BYTES, Unpacker
from serval.errors import BodyTooLargeError
from serval_testkit.gateway import MODEL, RunningGateway, running_gateway

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
BODY = json.dumps(CHAT).encode()
LIMIT = 1 << 20
# 4 KB for 4 MB.
BOMB = gzip.compress(b" " * (4 * LIMIT))
RAW_DEFLATE = zlib.compressobj(wbits=-15)

READ = {
    "gzip": gzip.compress(BODY),
    "x-gzip": gzip.compress(BODY),
    "GZip": gzip.compress(BODY),
    "deflate": zlib.compress(BODY),
    " identity ": BODY,
    "identity, gzip": gzip.compress(BODY),
    ",": BODY,
    "": BODY,
}


@pytest.mark.parametrize("coding", READ)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_compressed_body_is_unpacked(gateway: RunningGateway, coding: str, path: str) -> None:
    response = await gateway.post(READ[coding], path=path, headers={"content-encoding": coding})
    assert response.status == 200, await response.text()


async def test_compressed_body_is_unpacked_however_it_is_cut(gateway: RunningGateway) -> None:
    packed = gzip.compress(BODY)

    async def pieces() -> Any:
        for code in packed:
            yield bytes([code])

    url, headers = f"{gateway.url}/v1/chat/completions", {"content-encoding": "gzip"}
    headers |= {"authorization": f"Bearer {gateway.openai.api_key}", "content-type": "application/json"}
    async with gateway.http.post(url, data=pieces(), headers=headers) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "coding", ["zstd", "br", "compress", "gzip, gzip", "gzip, deflate", "x", "*", "gzip;q=1"]
)
async def test_other_coding_is_a_415_that_names_those_that_are_read(
    gateway: RunningGateway, coding: str
) -> None:
    response = await gateway.post(gzip.compress(BODY), headers={"content-encoding": coding})
    assert response.status == 415
    assert response.headers["accept-encoding"] == "gzip, deflate"
    error = (await response.json())["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "unsupported_content_encoding")
    assert coding in error["message"]
    # The connection goes on.
    assert (await gateway.post(CHAT)).status == 200


BROKEN = {
    "not compressed": ("gzip", BODY),
    "another format": ("gzip", zlib.compress(BODY)),
    "deflate without its frame": ("deflate", RAW_DEFLATE.compress(BODY) + RAW_DEFLATE.flush()),
    "cut": ("gzip", gzip.compress(BODY)[:-3]),
    "a wrong checksum": ("gzip", gzip.compress(BODY)[:-8] + bytes(8)),
    "two in one": ("gzip", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])),
    "text after its end": ("gzip", gzip.compress(BODY) + b"{}"),
    "nothing": ("gzip", b""),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_broken_compressed_body_is_a_400_that_says_so(gateway: RunningGateway, case: str) -> None:
    coding, body = BROKEN[case]
    response = await gateway.post(body, headers={"content-encoding": coding})
    assert response.status == 400
    error = (await response.json())["error"]
    assert error["code"] == "invalid_content_encoding"
    assert coding in error["message"]


async def test_compressed_body_over_the_limit_is_a_413_however_small_it_was_sent() -> None:
    async with running_gateway(max_body_bytes=LIMIT) as gateway:
        headers = {"content-encoding": "gzip"}
        assert (await gateway.post(BOMB, headers=headers)).status == 413
        within = BODY + b" " * (LIMIT - len(BODY))
        assert (await gateway.post(gzip.compress(within), headers=headers)).status == 200
        assert (await gateway.post(gzip.compress(within + b" "), headers=headers)).status == 413


async def test_unpacker_keeps_no_more_than_the_limit_and_one_piece() -> None:
    unpacker = Unpacker("gzip", max_bytes=PIECE_BYTES)
    with pytest.raises(BodyTooLargeError):
        await unpacker.add(BOMB)
    kept = sum(map(len, unpacker._pieces))
    assert kept == PIECE_BYTES


async def test_unpacker_gives_others_a_turn_between_pieces() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    unpacker = Unpacker("gzip", max_bytes=1 << 30)
    await unpacker.add(BOMB)
    counting.cancel()
    assert turns >= 4 * LIMIT // PIECE_BYTES - 1
    assert b"".join(unpacker.pieces()) == b" " * (4 * LIMIT)
