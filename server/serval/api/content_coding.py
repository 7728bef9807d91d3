"""Compressed request bodies.

zlib unpacks them; it is in every Python, unlike zstd and brotli. A few bytes may stand for gigabytes, so a
body is unpacked in pieces, between which other requests have their turn.
"""

import asyncio
import zlib
from typing import Final

from starlette.types import Scope

from serval.errors import BodyTooLargeError, InvalidRequestError, UnsupportedEncodingError
from serval.scheduling.body_budget import HeldBody

# Codings that are read, and zlib's names of their formats.
_WINDOW_BITS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
ACCEPTED: Final = "gzip, deflate"
# Bytes unpacked in one turn of the event loop, which takes a few milliseconds.
PIECE_BYTES: Final = 1 << 20


def content_coding_of(scope: Scope) -> str | None:
    """Return the coding of the request's body, or None. Raises `UnsupportedEncodingError`."""
    fields = [value for name, value in scope["headers"] if name == b"content-encoding"]
    codings = [coding.strip().lower() for coding in str(b",".join(fields), "latin-1").split(",")]
    applied = [coding for coding in codings if coding not in ("", "identity")]
    if not applied:
        return None
    if len(applied) > 1 or applied[0] not in _WINDOW_BITS:
        raise UnsupportedEncodingError(
            f"The content coding of the body is {', '.join(applied)!r}; send it with one of {ACCEPTED}, or"
            " without any.",
            accepted=ACCEPTED,
        )
    return applied[0]


class Unpacker:
    """Unpacks one body, of at most `max_bytes` unpacked."""

    def __init__(self, coding: str, *, max_bytes: int, held: HeldBody | None = None) -> None:
        """`coding` is one that `content_coding_of` returned. Unpacked bytes are counted as `held`."""
        self._held = held
        self._coding = coding
        self._decompressor = zlib.decompressobj(_WINDOW_BITS[coding])
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._size = 0

    async def add(self, packed: bytes) -> None:
        """Unpack the next part. Raises `BodyTooLargeError`, `InvalidRequestError` or what `held` raises."""
        while True:
            try:
                piece = self._decompressor.decompress(packed, PIECE_BYTES)
            except zlib.error:
                raise self._invalid("is not valid") from None
            self._size += len(piece)
            if self._size > self._max_bytes:
                raise BodyTooLargeError(self._max_bytes)
            if self._held is not None:
                self._held.add(len(piece))
            self._pieces.append(piece)
            if self._decompressor.unused_data:
                # Another compressed body may follow. Each costs far more than its few bytes.
                raise self._invalid("goes on after its end")
            packed = self._decompressor.unconsumed_tail
            if not packed and len(piece) < PIECE_BYTES:
                return
            await asyncio.sleep(0)

    def pieces(self) -> list[bytes]:
        """Return the body, whose last part was added, in pieces. Raises `InvalidRequestError`."""
        if not self._decompressor.eof:
            raise self._invalid("ends too early")
        return self._pieces

    def _invalid(self, fault: str) -> InvalidRequestError:
        return InvalidRequestError(
            f"The request body, sent with the content coding {self._coding}, {fault}.",
            code="invalid_content_encoding",
        )
