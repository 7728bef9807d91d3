"""xgrammar with a vocabulary of single bytes: what a structural tag accepts, and random texts it admits."""

import json
import random
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import xgrammar

_STOP = 256
_VOCABULARY = [bytes([byte]) for byte in range(256)] + [b"</s>"]
# Bytes that end strings, objects, arrays and values. Without a bias towards them most walks never end.
_ENDINGS = [ord(character) for character in '<"}]']
_bitmask = torch.zeros((1, (_STOP + 32) // 32), dtype=torch.int32)

_compiler = xgrammar.GrammarCompiler(
    xgrammar.TokenizerInfo(
        _VOCABULARY, xgrammar.VocabType.RAW, vocab_size=len(_VOCABULARY), stop_token_ids=[_STOP]
    ),
    max_threads=1,
)  # with its cache, like SGLang's


class UnfinishedWalkError(Exception):
    """The walk yielded no text: it reached its limit, or broke UTF-8, which xgrammar lets any text do."""


def compiled(tag: dict[str, Any]) -> xgrammar.CompiledGrammar:
    """Compile `tag` as SGLang does."""
    return compiled_text(json.dumps(tag))


def compiled_text(tag: str) -> xgrammar.CompiledGrammar:
    """Compile a tag given as JSON text."""
    return _compiler.compile_structural_tag(tag)


def accepts(grammar: xgrammar.CompiledGrammar, text: str) -> bool:
    """Return True if the grammar admits `text` as a whole output."""
    matcher = xgrammar.GrammarMatcher(grammar)
    return bool(matcher.accept_string(text)) and bool(matcher.accept_token(_STOP))


def walk(grammar: xgrammar.CompiledGrammar, choices: random.Random, *, limit: int = 3000) -> str:
    """Return a random text that the grammar admits, each byte drawn from those allowed.

    Raises UnfinishedWalkError if it does not end within `limit` bytes.
    """
    matcher = xgrammar.GrammarMatcher(grammar)
    written = bytearray()
    for _ in range(limit):
        allowed = _allowed(matcher)
        if not allowed.tokens:
            raise AssertionError(f"the grammar allows nothing after {bytes(written)!r}")
        token = _chosen(allowed, choices)
        if not matcher.accept_token(token):
            raise AssertionError(
                f"after {bytes(written)!r} the grammar refuses {token}, which its mask allows"
            )
        if token == _STOP:
            try:
                return written.decode()
            except UnicodeDecodeError as error:
                raise UnfinishedWalkError from error
        written.append(token)
    raise UnfinishedWalkError


def next_bytes(matcher: xgrammar.GrammarMatcher) -> list[int]:
    """Return the bytes that may come next."""
    return [token for token in _allowed(matcher).tokens if token != _STOP]


@dataclass(frozen=True)
class _Allowed:
    """Tokens that may come next; among them, those that end something, and those that are ASCII."""

    tokens: list[int]
    endings: list[int]
    ascii_only: list[int]


def _allowed(matcher: xgrammar.GrammarMatcher) -> _Allowed:
    matcher.fill_next_token_bitmask(_bitmask)
    return _read(tuple(_bitmask[0].tolist()))


# A walk meets the same few masks at most of its steps.
@lru_cache(maxsize=10_000)
def _read(mask: tuple[int, ...]) -> _Allowed:
    tokens = [token for token in range(_STOP + 1) if mask[token >> 5] >> (token & 31) & 1]
    return _Allowed(
        tokens,
        endings=[token for token in _ENDINGS if token in tokens],
        ascii_only=[token for token in tokens if token < 128],
    )


def _chosen(allowed: _Allowed, choices: random.Random) -> int:
    if allowed.tokens[-1] == _STOP and choices.random() < 0.5:
        return _STOP
    if allowed.endings and choices.random() < 0.15:
        return choices.choice(allowed.endings)
    # Multi-byte characters take most byte values but should not take most of the text.
    mostly_ascii = allowed.ascii_only and choices.random() < 0.95
    return choices.choice(allowed.ascii_only if mostly_ascii else allowed.tokens)
