"""Rewriting JSON Schema's `pattern` for xgrammar, or refusing it if the decoder cannot follow it.

Reads the subset of ECMA-262 regular expressions that describes a regular language. Written for xgrammar
0.2.7, whose converter lacks lookaround, back-references and word boundaries, ignores anchors in the middle,
matches the whole string where JSON Schema searches in it, and clamps negated classes to ASCII.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

# Counted repetitions multiply: (a{1000}){1000} has a million states and takes minutes to compile.
MAX_STATES: Final = 20_000
MAX_GROUP_NESTING: Final = 50
_LAST_CODE_POINT: Final = 0x10FFFF
_CARET: Final = 0x5E

Range = tuple[int, int]


class PatternError(ValueError):
    """The pattern cannot be enforced; the message says why. `work`: milliseconds spent to find out."""

    def __init__(self, problem: str, work: float = 0.0) -> None:
        super().__init__(problem)
        self.work = work


@dataclass(frozen=True, slots=True)
class CharacterSet:
    """Sorted, disjoint, inclusive ranges of code points.

    `named` are the characters that the pattern names explicitly; the others are in the set only because a
    wildcard, a range or a negation covers them.
    """

    ranges: tuple[Range, ...]
    named: tuple[Range, ...] = ()


@dataclass(frozen=True, slots=True)
class Sequence:
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    part: Node
    least: int
    most: int | None


Node = CharacterSet | Sequence | Choice | Repeat

_DIGITS: Final[tuple[Range, ...]] = ((0x30, 0x39),)
_WORD: Final[tuple[Range, ...]] = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Final[tuple[Range, ...]] = (
    (0x09, 0x0D),
    (0x20, 0x20),
    (0xA0, 0xA0),
    (0x1680, 0x1680),
    (0x2000, 0x200A),
    (0x2028, 0x2029),
    (0x202F, 0x202F),
    (0x205F, 0x205F),
    (0x3000, 0x3000),
)
# Only some validators treat these as spaces (ECMA-262 the last, Python the others) or word characters.
_DISPUTED_SPACE: Final[tuple[Range, ...]] = ((0x1C, 0x1F), (0x85, 0x85), (0xFEFF, 0xFEFF))
_DISPUTED_WORD: Final[tuple[Range, ...]] = ((0x80, _LAST_CODE_POINT),)
_LINE_ENDS: Final[tuple[Range, ...]] = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_SURROGATES: Final[tuple[Range, ...]] = ((0xD800, 0xDFFF),)
_CONTROLS: Final = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}
# xgrammar 0.2.7 supports no escapes in JSON strings with a pattern or a length.
_ESCAPED_IN_JSON: Final[tuple[Range, ...]] = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
_UTF8_BOUNDS: Final = (0x80, 0x800, 0x1000, 0xD000, 0xE000, 0x10000, 0x40000, 0x100000)
# Pairs (end, n): below `end`, n code points share each first byte of the UTF-8 encoding.
_SHARED_FIRST_BYTE: Final = ((0x80, 1), (0x800, 0x40), (0x10000, 0x1000), (_LAST_CODE_POINT + 1, 0x40000))


def union(ranges: list[Range]) -> tuple[Range, ...]:
    """Return the ranges sorted and joined."""
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


def complement(ranges: tuple[Range, ...]) -> tuple[Range, ...]:
    """Return all other code points except surrogates. `ranges` are sorted and disjoint."""
    others: list[Range] = []
    start = 0
    for first, last in union([*ranges, *_SURROGATES]):
        if first > start:
            others.append((start, first - 1))
        start = last + 1
    if start <= _LAST_CODE_POINT:
        others.append((start, _LAST_CODE_POINT))
    return tuple(others)


def without(ranges: tuple[Range, ...], removed: tuple[Range, ...]) -> tuple[Range, ...]:
    return complement(union([*complement(ranges), *removed]))


ANY_CHARACTER: Final = CharacterSet(complement(()), named=complement(()))
WILD_CHARACTER: Final = CharacterSet(complement(()))
_ANYTHING: Final = Repeat(WILD_CHARACTER, 0, None)


# `\\d`, `\\D` and so on, reduced to the characters that all validators agree on.
_CLASSES: Final[Mapping[str, tuple[Range, ...]]] = {
    "d": _DIGITS,
    "D": complement(_DIGITS),
    "w": _WORD,
    "W": complement(union([*_WORD, *_DISPUTED_WORD])),
    "s": _SPACE,
    "S": complement(union([*_SPACE, *_DISPUTED_SPACE])),
}


def parse(pattern: str) -> Node:
    """Parse a pattern; the node matches every string that contains a match. Raises PatternError."""
    node = _PatternReader(pattern).read()
    unfolded = states(node)
    if unfolded > MAX_STATES:
        raise PatternError(
            f"its repetitions unfold to {unfolded} characters; at most {MAX_STATES} are allowed"
        )
    return node


def write(node: Node, *, in_json: bool, avoid: str) -> str:
    """Write `node` as a regular expression for xgrammar, which matches the whole string.

    `in_json`: the string is written as JSON, between quotes; otherwise it is raw text. Characters in `avoid`
    are allowed only where the pattern names them explicitly: the character that begins markers could
    otherwise end the value. Raises PatternError if a required character cannot be written.
    """
    match node:
        case CharacterSet():
            return _write_set(node, in_json=in_json, avoid=avoid)
        case Sequence(parts):
            return "".join(write(part, in_json=in_json, avoid=avoid) for part in parts)
        case Choice(options):
            written = (write(option, in_json=in_json, avoid=avoid) for option in options)
            return f"(?:{'|'.join(written)})"
        case Repeat(part, least, most):
            bounds = f"{{{least},{'' if most is None else most}}}"
            count = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most), bounds)
            return f"(?:{write(part, in_json=in_json, avoid=avoid)}){count}"


def _write_set(characters: CharacterSet, *, in_json: bool, avoid: str) -> str:
    ranges = characters.ranges
    for character in map(ord, avoid):
        if _holds(ranges, character) and not _holds(characters.named, character):
            ranges = without(ranges, ((character, character),))
    if in_json:
        ranges = without(ranges, _ESCAPED_IN_JSON)
    if not ranges:
        place = "inside JSON (quotes, backslashes and control characters cannot)" if in_json else "here"
        raise PatternError(f"it needs a character that cannot be written {place}")
    if ranges == ((ranges[0][0], ranges[0][0]),):
        return _escaped(ranges[0][0])
    # xgrammar 0.2.7 joins adjacent ranges in a class, and misreads some ranges that span several first bytes
    # of UTF-8: after such a byte it allows nothing. So each range covers whole first bytes or part of one,
    # and adjacent ranges are in different classes.
    spans = [span for first, last in ranges for span in _by_first_byte(first, last)]
    if all(before[1] + 1 < after[0] for before, after in pairwise(spans)):
        return _class(spans)
    return f"(?:{_class(spans[::2])}|{_class(spans[1::2])})"


def _holds(ranges: tuple[Range, ...], code_point: int) -> bool:
    return any(first <= code_point <= last for first, last in ranges)


def _class(spans: list[Range]) -> str:
    (first, last), *others = spans
    if (first, last) == (_CARET, _CARET) and not others:
        return _escaped(_CARET)
    if first == _CARET:  # xgrammar 0.2.7 reads even an escaped caret at the start of a class as a negation
        spans = [*([(first + 1, last)] if last > first else ()), *others, (_CARET, _CARET)]
    return f"[{''.join(map(_span, spans))}]"


def _by_first_byte(first: int, last: int) -> list[Range]:
    """Split a range so that each part is within one first byte of UTF-8 or covers whole ones."""
    cuts = {first, last + 1} | {bound for bound in _UTF8_BOUNDS if first < bound <= last}
    for end in (first, last + 1):
        shared = next(size for below, size in _SHARED_FIRST_BYTE if end <= below)
        # Rounded down for the end of the last part, up for the end of the first one.
        cuts |= {cut for cut in (end // shared * shared, -(-end // shared) * shared) if first < cut <= last}
    return [(low, high - 1) for low, high in pairwise(sorted(cuts))]


def _span(span: Range) -> str:
    low, high = span
    return _escaped(low) + (f"-{_escaped(high)}" if high > low else "")


def _escaped(code_point: int) -> str:
    if code_point > 0xFFFF:
        return f"\\u{{{code_point:x}}}"
    character = chr(code_point)
    return character if character.isascii() and character.isalnum() else f"\\u{code_point:04x}"


def states(node: Node) -> int:
    """Return the number of characters that the repetitions of `node` unfold to."""
    match node:
        case CharacterSet():
            return 1
        case Sequence(parts) | Choice(parts):
            return sum(map(states, parts))
        case Repeat(part, least, most):
            return states(part) * max(least, most or 1, 1)


class _PatternReader:
    """Recursive descent parser with a limited depth."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._position = 0
        self._nesting = 0

    def read(self) -> Node:
        node = self._choice(outermost=True)
        if self._position < len(self._pattern):
            raise self._error("there is no group to close")
        return node

    def _error(self, problem: str) -> PatternError:
        return PatternError(f"at character {self._position} of {self._pattern!r:.120}: {problem}")

    def _peek(self, text: str) -> bool:
        return self._pattern.startswith(text, self._position)

    def _take(self, text: str) -> bool:
        if self._peek(text):
            self._position += len(text)
            return True
        return False

    def _next(self) -> str:
        if self._position >= len(self._pattern):
            raise self._error("it ends too early")
        self._position += 1
        return self._pattern[self._position - 1]

    def _at_end_anchor(self) -> bool:
        return self._peek("$|") or (self._peek("$") and self._position == len(self._pattern) - 1)

    def _choice(self, *, outermost: bool) -> Node:
        options = [self._sequence(outermost=outermost)]
        while self._take("|"):
            options.append(self._sequence(outermost=outermost))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self, *, outermost: bool) -> Node:
        # At the outermost level, a missing anchor admits any text on that side: JSON Schema searches.
        parts: list[Node] = [] if not outermost or self._take("^") else [_ANYTHING]
        while self._position < len(self._pattern) and not self._peek("|") and not self._peek(")"):
            if outermost and self._at_end_anchor():
                break
            parts.append(self._repeated(self._atom()))
        if outermost and not self._take("$"):
            parts.append(_ANYTHING)
        return Sequence(tuple(parts))

    def _repeated(self, atom: Node) -> Node:
        bounds: tuple[int, int | None]
        if self._take("*"):
            bounds = (0, None)
        elif self._take("+"):
            bounds = (1, None)
        elif self._take("?"):
            bounds = (0, 1)
        elif self._peek("{"):
            bounds = self._counts()
        else:
            return atom
        self._take("?")  # lazy repetition: the same language
        if self._position < len(self._pattern) and self._pattern[self._position] in "*+?{":
            raise self._error("a repetition cannot be repeated; put a group around it")
        return Repeat(atom, *bounds)

    def _counts(self) -> tuple[int, int | None]:
        end = self._pattern.find("}", self._position)
        least, comma, most = (
            self._pattern[self._position + 1 : end].partition(",") if end > 0 else ("", "", "")
        )
        if not _is_count(least) or (most and not _is_count(most)):
            raise self._error(
                "a repetition is {n}, {n,} or {n,m} with at most five digits; escape a literal brace"
            )
        self._position = end + 1
        if not comma:
            return int(least), int(least)
        if most and int(most) < int(least):
            raise self._error(f"the repetition {{{least},{most}}} runs backwards")
        return int(least), int(most) if most else None

    def _atom(self) -> Node:
        character = self._next()
        match character:
            case "(":
                return self._group()
            case "[":
                return self._class()
            case ".":
                return CharacterSet(complement(_LINE_ENDS))
            case "\\":
                return self._escape()
            case "^" | "$":
                raise self._error("an anchor can only stand at the very start or end")
            case "*" | "+" | "?" | "{" | "}" | "]":
                raise self._error(f"{character!r} has nothing to act on; escape it to mean the character")
        return _character(ord(character))

    def _group(self) -> Node:
        self._nesting += 1
        if self._nesting > MAX_GROUP_NESTING:
            raise self._error(f"groups are nested deeper than {MAX_GROUP_NESTING}")
        if self._take("?"):
            if self._take("<") or self._take("P<"):
                if self._peek("=") or self._peek("!"):
                    raise self._error("lookbehind cannot be enforced")
                end = self._pattern.find(">", self._position)
                if end < 0:
                    raise self._error("the group's name does not end")
                self._position = end + 1
            elif not self._take(":"):
                raise self._error("lookahead and inline flags cannot be enforced")
        node = self._choice(outermost=False)
        if not self._take(")"):
            raise self._error("the group is not closed")
        self._nesting -= 1
        return node

    def _escape(self) -> CharacterSet:
        character = self._next()
        if character in _CLASSES:
            return CharacterSet(_CLASSES[character])
        return _character(self._escaped_code_point(character))

    def _escaped_code_point(self, character: str) -> int:
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character == "x":
            return self._hexadecimal(2)
        if character == "u":
            return self._hexadecimal(4)
        if character.isalnum():
            raise self._error(f"\\{character} cannot be enforced")
        return ord(character)

    def _hexadecimal(self, digits: int) -> int:
        text = self._pattern[self._position : self._position + digits]
        if len(text) < digits or not all(digit in "0123456789abcdefABCDEF" for digit in text):
            raise self._error(f"{digits} hexadecimal digits are missing")
        self._position += digits
        if 0xD800 <= int(text, 16) <= 0xDFFF:
            raise self._error("a surrogate is no character; write the character itself")
        return int(text, 16)

    def _class(self) -> CharacterSet:
        negated = self._take("^")
        named: list[Range] = []
        ranges: list[Range] = []
        while not self._take("]"):
            members = self._class_member()
            low = members.ranges
            if len(low) == 1 and low[0][0] == low[0][1] and self._peek("-") and not self._peek("-]"):
                self._take("-")
                high = self._class_member().ranges
                if len(high) != 1 or high[0][0] != high[0][1] or high[0][0] < low[0][0]:
                    raise self._error("the range in the character class runs backwards or ends in a class")
                ranges.append((low[0][0], high[0][0]))
            else:
                named.extend(members.named)
                ranges.extend(low)
        if negated:
            return CharacterSet(complement(union(ranges)))
        return CharacterSet(without(union(ranges), _SURROGATES), named=union(named))

    def _class_member(self) -> CharacterSet:
        character = self._next()
        if character != "\\":
            return _character(ord(character))
        if self._take("b"):
            return _character(0x08)
        return self._escape()


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5


def _character(code_point: int) -> CharacterSet:
    one = ((code_point, code_point),)
    return CharacterSet(one, named=one)
