"""The playground's way to the inference API, and tokens as text."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from serval.chat.token_bytes import TokenBytes
from serval.console.playground import pieces
from serval_testkit.console import Visitor, new_key, running_console
from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi é <longcat_user>"}]}
PATHS = ("/console/playground/chat", "/console/playground/tokenize")


async def made_key(visitor: Visitor, **fields: str) -> str:
    return new_key((await visitor.send("/console/keys", {"name": "a", "scopes": "inference", **fields})).text)


async def test_chat_is_streamed_with_the_key_of_the_page(
    console: tuple[RunningGateway, Visitor], visitor: Visitor
) -> None:
    gateway, _ = console
    key = await made_key(visitor)
    answer = await visitor.ask(PATHS[0], {**CHAT, "stream": True}, key)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events) == "Hello world"
    assert len(gateway.engine.requests) == 1


async def test_stopped_answer_ends_in_the_engine(
    console: tuple[RunningGateway, Visitor], visitor: Visitor
) -> None:
    gateway, _ = console
    gateway.engine.will_say("partial", fault="stall")
    headers = {"origin": visitor.url, "x-serval-console": visitor.token}
    async with visitor.http.post(
        visitor.url + PATHS[0], json={**CHAT, "stream": True}, headers=headers
    ) as response:
        # Sent as it comes, before the answer is over.
        assert b"partial" in await response.content.readuntil(b"partial")
        response.close()
    await asyncio.wait_for(gateway.engine.abort_seen.wait(), 60)


async def test_limits_and_scopes_of_the_key_hold(visitor: Visitor) -> None:
    limited = await made_key(visitor, tokens_per_day="4")
    assert (await visitor.ask(PATHS[0], CHAT, limited)).status in (400, 429)
    administrator = new_key((await visitor.send("/console/keys", {"name": "a", "scopes": "admin"})).text)
    for path in PATHS:
        assert (await visitor.ask(path, CHAT, administrator)).status == 403
        assert (await visitor.ask(path, CHAT, "sk-serval-none")).status == 401


async def test_empty_key_is_the_servers_own(tmp_path: Path, visitor: Visitor) -> None:
    assert (await visitor.ask(PATHS[0], CHAT)).status == 200
    folder = tmp_path / "another"
    folder.mkdir()
    async with running_console(folder, api_key=None) as (_, other):
        await other.sign_in()
        assert (await other.ask(PATHS[0], CHAT)).status == 401


async def test_api_is_reached_at_two_paths_by_post_alone(visitor: Visitor) -> None:
    for path in PATHS:
        assert (await visitor.get(path)).status == 405
    for path in ("/console/playground/models", "/console/v1/models", "/console/playground/chat/"):
        assert (await visitor.ask(path, CHAT)).status == 404


async def test_cookie_is_not_passed_on(
    console: tuple[RunningGateway, Visitor], visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "serval.api.edge.authorization_of", lambda scope: seen.append(scope["headers"]) or "Bearer none"
    )
    await visitor.ask(PATHS[0], CHAT, "key")
    (headers,) = seen
    assert {name for name, _ in headers} <= {b"host", b"content-type", b"content-length", b"authorization"}


async def test_tokens_of_a_conversation_are_told_apart(visitor: Visitor) -> None:
    found = json.loads((await visitor.ask(PATHS[1], CHAT)).text)["tokens"]
    answer = await visitor.ask("/console/playground/tokens", {"tokens": found})
    shown = json.loads(answer.text)
    assert [piece["id"] for piece in shown] == found
    assert "".join(piece["text"] for piece in shown) == (
        "<longcat_user>Hi é <longcat_user><longcat_assistant>"
    )
    # The user's text is no control token, though it reads like one.
    assert [piece["text"] for piece in shown if piece["control"]] == ["<longcat_user>", "<longcat_assistant>"]


async def test_ids_that_are_no_tokens_are_refused(visitor: Visitor) -> None:
    for body in ({}, [], {"tokens": "1"}, {"tokens": [-1]}, {"tokens": [10**9]}, {"tokens": [1.5]}):
        assert (await visitor.ask("/console/playground/tokens", body)).status == 400, body


def test_part_of_a_character_is_written_out() -> None:
    plain = Tokenizer.from_file(str(DEMO_CHECKPOINT / "tokenizer.json"))
    ids = plain.encode("\U0001f43e", add_special_tokens=False).ids
    shown = pieces(ids, TokenBytes(plain, ()))
    assert len(shown) > 1
    assert "".join(piece.text for piece in shown) == "\\xf0\\x9f\\x90\\xbe"
