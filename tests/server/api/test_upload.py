"""Forms with a file: pieces of any size, bounds, and forms that are none."""

from collections.abc import Sequence

import pytest
from starlette.types import Message

from serval.api.http import ClientGoneError
from serval.api.upload import UploadedForm, receive_upload
from serval.errors import ApiError, BodyTooLargeError

FORM = b"multipart/form-data; boundary=b"
FILE = b'Content-Disposition: form-data; name="file"; filename="in.jsonl"'
PURPOSE = (b'Content-Disposition: form-data; name="purpose"', b"batch")


def form(*parts: tuple[bytes, bytes]) -> bytes:
    pieces = [b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts]
    return b"".join([*pieces, b"--b--\r\n"])


async def upload(
    pieces: Sequence[bytes],
    *,
    max_bytes: int = 1000,
    content_type: bytes = FORM,
) -> tuple[UploadedForm, bytes]:
    """Upload the pieces; after the last of them the client is gone if it is empty."""
    left = list(pieces)
    written = bytearray()

    async def receive() -> Message:
        if not left:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left) or not pieces[-1]}

    async def write(data: bytes) -> None:
        written.extend(data)

    scope = {"type": "http", "headers": [(b"content-type", content_type)]}
    return await receive_upload(scope, receive, write, max_bytes=max_bytes), bytes(written)


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_form_is_read_in_pieces_of_any_size(size: int) -> None:
    content = b'{"a": 1}\r\n--c\r\n' * 20
    whole = form(PURPOSE, (FILE, content), (b'Content-Disposition: form-data; name="x[y]"', b"7"))
    found, written = await upload([whole[start : start + size] for start in range(0, len(whole), size)])
    assert written == content
    assert found == UploadedForm("in.jsonl", len(content), {"purpose": "batch", "x[y]": "7"})


async def test_file_over_the_limit_is_refused_before_it_is_whole() -> None:
    start = form(PURPOSE, (FILE, b"x" * 3000))[:1500]
    with pytest.raises(BodyTooLargeError):
        await upload([start, b""], max_bytes=1000)
    assert (await upload([form((FILE, b"x" * 1000))], max_bytes=1000))[0].size == 1000


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"{}", b"application/json"),
        (b"", b"multipart/form-data"),
        (b"nothing", FORM),
        (form(PURPOSE), FORM),
        (form((FILE, b"x"))[:-20], FORM),
        (form((FILE, b"x"), (FILE, b"y")), FORM),
        (form((FILE.replace(b"in", b"\xff"), b"x")), FORM),
        (form((FILE, b"x"), (PURPOSE[0], b"a\0b")), FORM),
        (form((FILE, b"x"), (PURPOSE[0], b"a" * (1 << 17))), FORM),
        (form((FILE + b"\r\nX: " + b"a" * 9000, b"x")), FORM),
        (form(*[(PURPOSE[0], b"")] * 100, (FILE, b"x")), FORM),
    ],
)
async def test_form_that_cannot_be_used_is_an_error_of_the_client(
    content: bytes, content_type: bytes
) -> None:
    with pytest.raises(ApiError) as raised:
        await upload([content], content_type=content_type, max_bytes=1 << 20)
    assert raised.value.status in (400, 413)


async def test_client_that_leaves_ends_the_upload() -> None:
    with pytest.raises(ClientGoneError):
        await upload([form(PURPOSE, (FILE, b"x"))[:40], b""])
