"""Texts that only a holder of the secret can write: what a browser keeps for the server."""

import base64
import binascii
import hashlib
import hmac
from typing import Final

_MOST_CHARACTERS: Final = 4096


class Signer:
    """Signs with HMAC-SHA256. A text that is signed for one purpose is invalid for another."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def digest(self, purpose: str, content: bytes) -> bytes:
        """Return the 32 bytes that prove the content and its purpose."""
        key = hmac.digest(self._secret, purpose.encode(), hashlib.sha256)
        return hmac.digest(key, content, hashlib.sha256)

    def sign(self, purpose: str, content: bytes) -> str:
        """Return the content and its signature as URL-safe text."""
        return f"{_text(content)}.{_text(self.digest(purpose, content))}"

    def read(self, purpose: str, text: str | None) -> bytes | None:
        """Return the content of a signed text; None if its signature is wrong or missing."""
        if text is None or len(text) > _MOST_CHARACTERS or not text.isascii():
            return None
        content_text, _, signature_text = text.partition(".")
        try:
            content, signature = _bytes(content_text), _bytes(signature_text)
        except (binascii.Error, ValueError):
            return None
        return content if hmac.compare_digest(signature, self.digest(purpose, content)) else None


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
