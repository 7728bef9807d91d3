"""Compression of JSON in the database."""

import zlib


def compressed(json: bytes) -> bytes:
    """Return JSON as it is stored."""
    return zlib.compress(json, 1)


def uncompressed(stored: bytes) -> bytes:
    """Return the JSON that was stored."""
    return zlib.decompress(stored)
