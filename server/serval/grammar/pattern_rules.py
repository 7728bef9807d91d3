"""Writing patterns as rules of xgrammar's EBNF, in which long repetitions are cheap.

xgrammar 0.2.7 unfolds a counted repetition into one state for each character, and walks the vocabulary once
for each state; above 128 it counts at run time instead, which takes 100 ms for each mask, and its cached
compiler refuses some of these grammars. A rule of one state with the attribute `max_chars` costs a single
walk, whatever its bound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Final

from serval.grammar.compile_cost import class_cost
from serval.grammar.pattern import CharacterSet, Choice, Node, Repeat, Sequence, write

# A repetition of up to this many characters is unfolded: its masks are the cheapest.
MAX_UNFOLDED: Final = 16
# A required run of characters is written in blocks of this size, all by one rule.
BLOCK: Final = 32
EMPTY: Final = '""'


class Rules:
    """Collects the rules of one grammar. Equal rules are written once."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        # Expressions by a writer's own keys, to be used again.
        self.named: dict[str, str] = {}
        self._lines: list[str] = []

    def name_of(self, body: str, attributes: str = "") -> str:
        """Return the name of a rule with this body, such as `r3`; add it if there is none."""
        definition = f"{attributes} ::= {body}"
        if definition not in self._names:
            name = self._names[definition] = self.reserve()
            self.define(name, body, attributes)
        return self._names[definition]

    def reserve(self) -> str:
        """Return a new name, for a rule that is defined later."""
        self._lines.append("")
        return f"r{len(self._lines) - 1}"

    def define(self, name: str, body: str, attributes: str = "") -> None:
        self._lines[int(name[1:])] = f"{name}{attributes} ::= {body}"

    def text(self, root: str) -> str:
        """Return the grammar, whose rule `root` is `root`."""
        return "\n".join([f"root ::= {root}", *self._lines])


def pattern_rule(node: Node, rules: Rules, *, in_json: bool, avoid: str) -> str:
    """Return an expression for the texts of `node`. The options are those of `pattern.write`."""

    def regex(part: Node) -> str:
        written = write(part, in_json=in_json, avoid=avoid)
        return f"Regex({json.dumps(written)})" if written else EMPTY

    def expression(part: Node) -> str:
        if not has_long_repetition(part):
            return regex(part)
        match part:
            case Sequence(parts):
                return " ".join(map(expression, _short_ones_joined(parts)))
            case Choice(options):
                return f"({' | '.join(map(expression, options))})"
            case Repeat(CharacterSet() as characters, least, most):
                return _counted(characters, least, most, rules, regex)
            case Repeat(inner, least, most):
                return repeated(rules.name_of(expression(inner)), least, most)
        return regex(part)

    return expression(node)


def has_long_repetition(node: Node) -> bool:
    """Return True if `node` repeats a part more often than is unfolded."""
    match node:
        case CharacterSet():
            return False
        case Sequence(parts) | Choice(parts):
            return any(map(has_long_repetition, parts))
        case Repeat(part, least, most):
            return max(least, most or 0) > MAX_UNFOLDED or has_long_repetition(part)


def pattern_cost(node: Node) -> float:
    """Return the milliseconds that compiling `pattern_rule` takes."""
    match node:
        case CharacterSet(ranges):
            return class_cost(ranges)
        case Sequence(parts) | Choice(parts):
            return sum(map(pattern_cost, parts))
        case Repeat(CharacterSet(ranges), least, most):
            blocks, rest = divmod(least, BLOCK) if least > MAX_UNFOLDED else (0, least)
            optional = 1 if most is None else most - least
            counted = 1 if optional > MAX_UNFOLDED else optional
            return (rest + counted + (BLOCK if blocks else 0)) * class_cost(ranges)
        case Repeat(part, least, most):
            return pattern_cost(part) * min(max(least, most or 1, 1), MAX_UNFOLDED)


def literal(text: str) -> str:
    """Return `text` as a literal of EBNF."""
    return f'"{"".join(map(_escaped, map(ord, text)))}"'


def repeated(expression: str, least: int, most: int | None) -> str:
    """Return `expression`, repeated."""
    if most == 0:
        return EMPTY
    bounds = f"{{{least},{'' if most is None else most}}}"
    return f"({expression}){ ({(0, None): '*', (1, None): '+', (0, 1): '?'}.get((least, most), bounds)) }"


def _short_ones_joined(parts: tuple[Node, ...]) -> Iterator[Node]:
    """Join neighbours that are written as one regular expression."""
    for is_long, group in groupby(parts, key=has_long_repetition):
        if is_long:
            yield from group
        else:
            yield Sequence(tuple(group))


def _counted(
    characters: CharacterSet, least: int, most: int | None, rules: Rules, regex: Callable[[Node], str]
) -> str:
    blocks, rest = divmod(least, BLOCK) if least > MAX_UNFOLDED else (0, least)
    parts = [rules.name_of(regex(Repeat(characters, BLOCK, BLOCK)))] * blocks
    if rest:
        parts.append(regex(Repeat(characters, rest, rest)))
    if most is None:
        parts.append(regex(Repeat(characters, 0, None)))
    elif most - least > MAX_UNFOLDED:
        free = regex(Repeat(characters, 0, None))
        parts.append(rules.name_of(free, f"[max_chars={most - least}]"))
    elif most > least:
        parts.append(regex(Repeat(characters, 0, most - least)))
    return " ".join(parts)


def _escaped(code_point: int) -> str:
    if code_point > 0xFFFF:
        return f"\\U{code_point:08x}"
    character = chr(code_point)
    return character if character.isascii() and character.isalnum() else f"\\u{code_point:04x}"
