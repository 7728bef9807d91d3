"""Secrets in the Protocol Buffers form in which Helm sends the releases it stores.

Numbers of fields: `generated.proto` of k8s.io/apimachinery (`Unknown`, `ObjectMeta`) and of
k8s.io/api/core/v1 (`Secret`).
"""

import base64
from collections.abc import Iterator
from typing import Any

_MAGIC = b"k8s\x00"


def is_protobuf(body: bytes) -> bool:
    """Return True for the API's envelope of Protocol Buffers."""
    return body.startswith(_MAGIC)


def read_secret(body: bytes) -> dict[str, Any]:
    """Return a Secret with its name, labels, data and type."""
    raw = dict(_messages(body.removeprefix(_MAGIC)))[2]
    secret: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"labels": {}}, "data": {}}
    for number, value in _messages(raw):
        if number == 1:
            for inner, text in _messages(value):
                if inner == 1:
                    secret["metadata"]["name"] = text.decode()
                elif inner == 11:
                    entry = dict(_messages(text))
                    secret["metadata"]["labels"][entry[1].decode()] = entry[2].decode()
        elif number == 2:
            entry = dict(_messages(value))
            secret["data"][entry[1].decode()] = base64.b64encode(entry[2]).decode()
        elif number == 3:
            secret["type"] = value.decode()
    return secret


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of each field that has a length; numbers are skipped."""
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        value, at = _number(data, at)
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + value]
            at += value


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return the number of variable length that begins at `at`, and where it ends."""
    found = shift = 0
    while True:
        found |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return found, at
