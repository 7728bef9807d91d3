"""The abusive requests: each is refused sooner or later, and meant to cost much before that."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MODEL = "stand-in"
_ENGLISH = "The quick brown fox. "


@dataclass(frozen=True)
class Kind:
    """`count` equal requests. The last byte of a body is sent `hold_s` after the others."""

    name: str
    count: int
    path: str
    body: bytes
    hold_s: float = 0.0


def kinds() -> Sequence[Kind]:
    """Return the mix: a hundred requests, three quarters of a gigabyte of bodies."""
    long, english = "x" * 29_000_000, _ENGLISH * 571_000
    hello = {"role": "user", "content": "a"}
    return (
        Kind("12 MB of English", 12, *_chat(english)),
        Kind("1 MB of brackets in a tool's schema", 12, *_chat("x", tools=[_tool(1_000_000)])),
        Kind("4 MB of brackets in a tool's schema", 4, *_chat("x", tools=[_tool(4_000_000)])),
        Kind("1,000,000 messages, 30 MB", 4, *_conversation([hello] * 1_000_000)),
        Kind("60,000 messages, 2 MB", 8, *_conversation([hello] * 60_000)),
        Kind("6 MB of text with one emoji", 6, *_chat("\U0001f9ed" + "a b " * 1_500_000)),
        Kind("3 MB of spaces", 6, *_chat(" " * 3_000_000)),
        Kind("a word of 3 MB", 6, *_chat("a" * 3_000_000)),
        Kind("250 KB of English", 8, *_chat(_ENGLISH * 12_000)),
        Kind("16 KB of English", 8, *_chat(_ENGLISH * 740)),
        Kind("tokenize: 12 MB of English", 6, *_plain("/tokenize", prompt=english)),
        Kind("detokenize: 4,000,000 ids, 11 MB", 6, *_plain("/detokenize", tokens=[42, 7, 399, 1] * 10**6)),
        Kind("128 prompts of 90 KB", 4, *_plain("/v1/completions", prompt=[_ENGLISH * 4300] * 128)),
        Kind("2,000,000 empty prompts", 4, *_plain("/v1/completions", prompt=[[]] * 2_000_000)),
        Kind("29 MB of text, the last byte after 10 s", 6, *_chat(long), hold_s=10.0),
    )


def total(mix: Sequence[Kind]) -> int:
    """Return the number of requests."""
    return sum(kind.count for kind in mix)


def _chat(content: str, **fields: Any) -> tuple[str, bytes]:
    return _conversation([{"role": "user", "content": content}], **fields)


def _conversation(messages: Sequence[Mapping[str, str]], **fields: Any) -> tuple[str, bytes]:
    return _plain("/v1/chat/completions", messages=messages, max_tokens=2, **fields)


def _plain(path: str, **fields: Any) -> tuple[str, bytes]:
    text = json.dumps({"model": MODEL, **fields}, separators=(",", ":"), ensure_ascii=False)
    return path, text.encode()


def _tool(size: int) -> Mapping[str, Any]:
    """Return a tool whose schema is `size` bytes of nested brackets."""
    return {"type": "function", "function": {"name": "f", "parameters": {"x": [[]] * (size // 3)}}}
