"""Formats of text that follows a pattern, and in which wildcards match all but the markers of a dialect.

`formats.text_format` keeps the character that begins markers out of wildcards. Code is full of it, so texts
written by custom tools exclude the markers themselves instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from serval.grammar import pattern
from serval.grammar.enforceable_scalars import WrittenPattern
from serval.grammar.formats import Format, sequence, text_format
from serval.grammar.pattern import CharacterSet, Choice, Node, Repeat
from serval.grammar.pattern_rules import pattern_cost

# Characters that a wildcard may leave out. Classes that leave out more are written as expressions.
_MOST_LEFT_OUT: Final = 16


def free_text_format(node: Node, *, avoid: str, excludes: Sequence[str]) -> Format:
    """Return the format of the texts of `node`.

    `avoid`: characters that begin markers; `excludes`: markers that no wildcard may match.
    """
    if not _has_wildcard(node, avoid):
        return text_format(WrittenPattern(node, pattern_cost(node), in_json=False, avoid=avoid), avoid=avoid)

    def below(part: Node) -> Format:
        return free_text_format(part, avoid=avoid, excludes=excludes)

    match node:
        case Repeat(CharacterSet() as characters, 0 | 1 as least, None):
            run: Format = {"type": "any_text", "excludes": [*_left_out(characters), *excludes]}
            return run if least == 0 else sequence(_without_avoided(characters, avoid), run)
        case Repeat(part, least, most):
            return _repeated(below(part), least, most)
        case pattern.Sequence(parts):
            return sequence(*map(below, _plain_ones_joined(parts, avoid)))
        case Choice(options):
            return {"type": "or", "elements": list(map(below, options))}
    return _without_avoided(node, avoid)


def _has_wildcard(node: Node, avoid: str) -> bool:
    """Return True if part of `node` is a run of characters that cover one of `avoid` without naming it."""
    match node:
        case Repeat(CharacterSet() as characters, 0 | 1, None):
            return _is_wildcard(characters, avoid)
        case Repeat(part):
            return _has_wildcard(part, avoid)
        case pattern.Sequence(parts) | Choice(parts):
            return any(_has_wildcard(part, avoid) for part in parts)
    return False


def _is_wildcard(characters: CharacterSet, avoid: str) -> bool:
    covered = [
        _holds(characters.ranges, character) and not _holds(characters.named, character)
        for character in map(ord, avoid)
    ]
    return any(covered) and len(_left_out(characters)) <= _MOST_LEFT_OUT


def _holds(ranges: tuple[pattern.Range, ...], code_point: int) -> bool:
    return any(first <= code_point <= last for first, last in ranges)


def _left_out(characters: CharacterSet) -> list[str]:
    """Return the characters that are not in the set; some more than `_MOST_LEFT_OUT` if there are many."""
    left_out: list[str] = []
    for first, last in pattern.complement(characters.ranges):
        left_out += map(chr, range(first, min(last, first + _MOST_LEFT_OUT) + 1))
    return left_out


def _without_avoided(node: Node, avoid: str) -> Format:
    written = WrittenPattern(node, pattern_cost(node), in_json=False, avoid=avoid)
    return text_format(written, avoid=avoid)


def _plain_ones_joined(parts: tuple[Node, ...], avoid: str) -> Iterator[Node]:
    """Join neighbours that are written as one expression."""
    for wild, group in groupby(parts, key=lambda part: _has_wildcard(part, avoid)):
        if wild:
            yield from group
        else:
            yield pattern.Sequence(tuple(group))


def _repeated(content: Format, least: int, most: int | None) -> Format:
    kind = {(0, None): "star", (1, None): "plus", (0, 1): "optional"}.get((least, most))
    if kind is not None:
        return {"type": kind, "content": content}
    return {"type": "repeat", "min": least, "max": -1 if most is None else most, "content": content}
