"""Conversations as token ids that the client keeps, sealed so that only this server's replicas read them.

The text is `serval1.` and base64 of a nonce, the ciphertext and the tag of AES-256-GCM-SIV (RFC 8452), which
allows random nonces without counting them. Its key is derived from the server's secret by HKDF-SHA256 (RFC
5869). The caller, the model's name and its files are associated data: elsewhere a seal does not open.
"""

import base64
import secrets
import sys
import zlib
from array import array
from collections.abc import Sequence
from typing import Final, NoReturn

import msgspec
from msgspec import Struct

from serval.errors import InvalidRequestError

PREFIX: Final = "serval1."
# The code of OpenAI's API.
INVALID: Final = "invalid_encrypted_content"
_NONCE_BYTES: Final = 12


class ExpiredSealError(InvalidRequestError):
    """The sealed turn is genuine, and too old."""

    default_code = "encrypted_content_expired"


class SealedTurn(Struct, frozen=True):
    """A conversation up to the end of an answer."""

    # Without the token that ends the answer's turn.
    ids: "array[int]"
    # Digests of what the request declares beside its items, and of that and all items.
    head: bytes
    digest: bytes
    # Ids of the answer's calls, in order.
    calls: Sequence[str] = ()


class _Content(Struct, array_like=True, frozen=True):
    expires: int
    head: bytes
    digest: bytes
    calls: list[str]
    ids: bytes


_decoder: "msgspec.msgpack.Decoder[_Content]" = msgspec.msgpack.Decoder(_Content)


class TurnSealer:
    """Seals turns and opens them. Safe to use from several threads."""

    def __init__(
        self, secret: str, *, model: str, files: str, vocabulary_size: int, max_tokens: int, keep_s: int
    ) -> None:
        """`secret`: the same on all replicas. `files`: digest of the tokenizer's and template's files.

        Seals are valid for `keep_s` seconds. `max_tokens`: length of the context.
        """
        # The package is optional, and loaded only where turns are sealed.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        info = b"serval sealed turn 1"
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret.encode())
        self._cipher = AESGCMSIV(key)
        self._wrong_seal = InvalidTag
        self._model = model
        self._files = files
        self._vocabulary_size = vocabulary_size
        self._max_tokens = max_tokens
        self._keep_s = keep_s

    def seal(self, turn: SealedTurn, *, subject: str, now: float) -> str:
        """Return the turn as text for the caller `subject`; `now` is Unix time."""
        expires = int(now) + self._keep_s
        content = _Content(expires, turn.head, turn.digest, list(turn.calls), _packed(turn.ids))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, msgspec.msgpack.encode(content), self._associated(subject))
        return PREFIX + base64.b64encode(nonce + sealed).decode()

    def open(self, text: str, *, subject: str, now: float, param: str) -> SealedTurn:
        """Return the turn that was sealed for the caller.

        Raises `ExpiredSealError`, and `InvalidRequestError` with the code `invalid_encrypted_content` for any
        other text; `param` names its place.
        """
        try:
            data = base64.b64decode(text.removeprefix(PREFIX), validate=True)
            # Unused bits at the end would let one byte change.
            if PREFIX + base64.b64encode(data).decode() != text:
                _refuse(param)
            plain = self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], self._associated(subject))
            content = _decoder.decode(plain)
            ids = _unpacked(content.ids, self._max_tokens)
        except (self._wrong_seal, ValueError, zlib.error):
            # ValueError: not base64, or too short for the cipher.
            _refuse(param)
        if max(ids, default=0) >= self._vocabulary_size:
            _refuse(param)
        if content.expires <= now:
            raise ExpiredSealError(
                f"The sealed turn at {param} has expired. Send the whole conversation as items.", param=param
            )
        return SealedTurn(ids, content.head, content.digest, content.calls)

    def _associated(self, subject: str) -> bytes:
        return msgspec.msgpack.encode([1, subject, self._model, self._files])


def _refuse(param: str) -> NoReturn:
    raise InvalidRequestError(
        f"The sealed turn at {param} cannot be read: it was changed, or made for another key, model or"
        " server. Send the whole conversation as items.",
        param=param,
        code=INVALID,
    ) from None


def _packed(ids: "array[int]") -> bytes:
    """Return the ids compressed, without their highest bytes: no vocabulary has 2**24 tokens."""
    data = bytearray(_little_endian(ids).tobytes())
    del data[3::4]
    # Higher levels take three times as long, for a tenth less.
    return zlib.compress(data, 1)


def _unpacked(packed: bytes, max_tokens: int) -> "array[int]":
    stream = zlib.decompressobj()
    packed_ids = stream.decompress(packed, 3 * max_tokens)
    if stream.decompress(stream.unconsumed_tail, 1):
        raise ValueError("more tokens than the context holds")
    data = bytearray(len(packed_ids) // 3 * 4)
    for place in range(3):
        data[place::4] = packed_ids[place::3]
    return _little_endian(array("I", bytes(data)))


def _little_endian(ids: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        ids = ids[:]
        ids.byteswap()
    return ids
