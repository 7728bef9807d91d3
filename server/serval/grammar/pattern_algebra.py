"""Several constraints on one string as a single pattern: lengths, and patterns that must hold together."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from serval.grammar.automaton import Automaton, Part, TooManyEdgesError, distinct_letters, holds
from serval.grammar.pattern import (
    CharacterSet,
    Choice,
    Node,
    PatternError,
    Range,
    Repeat,
    Sequence,
    complement,
    without,
)

_MAX_COPIES: Final = 400
_MAX_PAIRS: Final = 500
_MAX_SIZE: Final = 2_000
_MAX_OPTIONS: Final = 4
_WORK: Final = 50.0  # milliseconds that the limits above take
_NOTHING: Final = Sequence(())


class ContradictionError(PatternError):
    """No text matches two patterns."""


def shortest(node: Node) -> int:
    """Return the length of the shortest text of `node`."""
    match node:
        case CharacterSet():
            return 1
        case Sequence(parts):
            return sum(map(shortest, parts))
        case Choice(options):
            return min(map(shortest, options))
        case Repeat(part, least, _):
            return least and least * shortest(part)


def longest(node: Node) -> float:
    """Return the length of the longest text of `node`; infinity if there is none."""
    match node:
        case CharacterSet():
            return 1
        case Sequence(parts):
            return sum(map(longest, parts))
        case Choice(options):
            return max(map(longest, options))
        case Repeat(part, _, most):
            length = longest(part)
            return 0 if length == 0 else length * (math.inf if most is None else most)


def of_length(node: Node, least: int, most: float) -> Node:
    """Return a pattern for texts of `node` with `least` to `most` characters, and for no others.

    It admits all of them if one repetition of a character set varies in length. Otherwise the repetitions
    share the characters, and some texts are left out. Raises PatternError if none can be admitted.
    """
    if longest(node) >= least > shortest(node):
        node = _longer(node, least)
    if shortest(node) <= most < longest(node):
        node = _shorter(node, int(most))
    if not least <= shortest(node) <= longest(node) <= most:
        raise PatternError("it admits no text of the lengths asked for")
    return node


def _shorter(node: Node, most: int) -> Node:
    """Narrow `node` to texts of at most `most` characters. Its shortest text is not longer."""
    if longest(node) <= most:
        return node
    match node:
        case Repeat(CharacterSet() as part, least, _):
            narrowed: Node = Repeat(part, least, most)
        case Repeat():
            narrowed = _fewer_and_shorter(node, most)
        case Choice(options):
            fitting = [option for option in options if shortest(option) <= most]
            narrowed = Choice(tuple(_shorter(option, most) for option in fitting))
        case Sequence(parts):
            shares = _shares(parts, most - shortest(node))
            narrowed = Sequence(
                tuple(_shorter(part, shortest(part) + shares[at]) for at, part in enumerate(parts))
            )
        case CharacterSet():
            narrowed = node
    return narrowed


def _fewer_and_shorter(node: Repeat, most: int) -> Node:
    """Allow about as many copies as each of them has characters."""
    length, limit = shortest(node.part), longest(node.part)
    number = max(node.least, 1, math.isqrt(most // max(length, 1)))
    if limit < math.inf:
        number = max(number, int(most // limit))
    number = number if node.most is None else min(number, node.most)
    if most == 0 or most < number * length:
        return _NOTHING
    return Repeat(_shorter(node.part, most // number), node.least, number)


def _shares(parts: tuple[Node, ...], spare: int) -> dict[int, int]:
    """Distribute `spare` characters over parts: equally, except that some have less use for them."""
    rooms = [longest(part) - shortest(part) for part in parts]
    shares = {}
    for done, at in enumerate(sorted(range(len(parts)), key=rooms.__getitem__)):
        shares[at] = int(min(rooms[at], spare // (len(parts) - done)))
        spare -= shares[at]
    return shares


def _longer(node: Node, least: int) -> Node:
    """Narrow `node` to texts of at least `least` characters. Its longest text is not shorter."""
    if shortest(node) >= least:
        return node
    match node:
        case Repeat(CharacterSet() as part, _, most):
            return Repeat(part, least, most)
        case Repeat(part, fewest, most):
            length = shortest(part)
            if length == 0 or (most is not None and least > most * length):
                copies = 1 if most is None else most
                wanted = min(-(-least // copies), longest(part))
                part = _longer(part, int(wanted))
                length = shortest(part)
            return Repeat(part, max(fewest, -(-least // length)), most)
        case Choice(options):
            return Choice(tuple(_longer(option, least) for option in options if longest(option) >= least))
        case Sequence(parts):
            return _longer_sequence(parts, least - shortest(node))
    return node


def _longer_sequence(parts: tuple[Node, ...], missing: int) -> Node:
    """Lengthen any one part that can make up for all that is missing; if none can, several parts."""
    able = [at for at, part in enumerate(parts) if longest(part) >= shortest(part) + missing]
    if able:
        options = [
            Sequence((*parts[:at], _longer(parts[at], shortest(parts[at]) + missing), *parts[at + 1 :]))
            for at in able[:_MAX_OPTIONS]
        ]
        return options[0] if len(options) == 1 else Choice(tuple(options))
    raised = list(parts)
    for at in sorted(range(len(parts)), key=lambda at: -longest(parts[at])):
        length = shortest(parts[at])
        raised[at] = _longer(parts[at], int(min(length + missing, longest(parts[at]))))
        missing = max(0, missing - (shortest(raised[at]) - length))
    return Sequence(tuple(raised))


@dataclass(frozen=True, slots=True)
class _Read:
    """An automaton with its whole pattern. State -1 is the start, the others are positions."""

    automaton: Automaton
    whole: Part

    def after(self, state: int) -> Iterable[int]:
        return self.whole.first if state < 0 else self.automaton.follow[state]

    def may_end(self, state: int) -> bool:
        return self.whole.empty if state < 0 else state in self.whole.last


def both(left: Node, right: Node) -> Node:
    """Return a pattern for texts that match both patterns.

    Raises ContradictionError if there are none, and PatternError if the pattern would be too large.
    """
    try:
        one, other = _read(left), _read(right)
    except TooManyEdgesError:
        raise PatternError("it repeats too much to hold together with another pattern") from None
    if _includes(other, one):
        return left
    if _includes(one, other):
        return right
    return _product(one, other)


def _read(node: Node) -> _Read:
    if _copies(node) > _MAX_COPIES:
        raise PatternError(f"it counts above {_MAX_COPIES} beside another pattern")
    automaton = Automaton(most_copies=_MAX_COPIES)
    return _Read(automaton, automaton.add(node))


def _copies(node: Node) -> int:
    match node:
        case CharacterSet():
            return 0
        case Sequence(parts) | Choice(parts):
            return max(map(_copies, parts), default=0)
        case Repeat(part, least, most):
            return max(least, most or 0, _copies(part))


def _includes(larger: _Read, smaller: _Read) -> bool:
    """Return True if `larger` matches all texts of `smaller`; False also if it takes long to tell."""
    letters = distinct_letters([*larger.automaton.sets, *smaller.automaton.sets])
    start = (-1, frozenset((-1,)))
    seen = {start}
    unread = deque(seen)
    while unread:
        state, others = unread.popleft()
        if smaller.may_end(state) and not any(map(larger.may_end, others)):
            return False
        if len(seen) > _MAX_PAIRS:
            return False
        following = {successor for other in others for successor in larger.after(other)}
        for successor in smaller.after(state):
            for letter in letters:
                if holds(smaller.automaton.sets[successor].ranges, letter):
                    reached = frozenset(
                        at for at in following if holds(larger.automaton.sets[at].ranges, letter)
                    )
                    if (successor, reached) not in seen:
                        seen.add((successor, reached))
                        unread.append((successor, reached))
    return True


_Pair = tuple[int, int]
_START: Final = (-1, -1)
_END: Final = (-2, -2)


def _product(left: _Read, right: _Read) -> Node:
    edges: dict[_Pair, dict[_Pair, Node]] = {_START: {}}
    unread = [_START]
    while unread:
        pair = unread.pop()
        if left.may_end(pair[0]) and right.may_end(pair[1]):
            edges[pair][_END] = _NOTHING
        for one in left.after(pair[0]):
            for other in right.after(pair[1]):
                common = _common(left.automaton.sets[one], right.automaton.sets[other])
                if not common.ranges:
                    continue
                edges[pair][one, other] = common
                if (one, other) not in edges:
                    edges[one, other] = {}
                    unread.append((one, other))
                    if len(edges) > _MAX_PAIRS:
                        raise PatternError("it is too complex to hold together with another pattern", _WORK)
    return _eliminated(edges)


def _common(left: CharacterSet, right: CharacterSet) -> CharacterSet:
    ranges = _intersection(left.ranges, right.ranges)
    named = [*_intersection(left.named, ranges), *_intersection(right.named, ranges)]
    return CharacterSet(ranges, named=tuple(sorted(named)))


def _intersection(left: tuple[Range, ...], right: tuple[Range, ...]) -> tuple[Range, ...]:
    return without(left, complement(right))


def _eliminated(edges: dict[_Pair, dict[_Pair, Node]]) -> Node:
    """Turn an automaton into a pattern by taking out one state after another."""
    sources: dict[_Pair, set[_Pair]] = {_END: set()}
    for state, targets in edges.items():
        for target in targets:
            sources.setdefault(target, set()).add(state)
    size = Counter({state: 1 for state in edges})
    pending = [state for state in edges if state != _START]
    while pending:
        state = min(pending, key=lambda one: len(sources.get(one, ())) * len(edges[one]))
        pending.remove(state)
        targets = edges.pop(state)
        loop = targets.pop(state, None)
        before = sources.pop(state, set()) - {state}
        del size[state]
        around = () if loop is None else (Repeat(loop, 0, None),)
        for target in targets:
            sources[target].discard(state)
        for source in before:
            into = edges[source].pop(state)
            for target, out in targets.items():
                path = _joined([into, *around, out])
                known = edges[source].get(target)
                edges[source][target] = path if known is None else _either(known, path)
                sources[target].add(source)
                size[source] = sum(map(_size, edges[source].values()))
        if size.total() > 10 * _MAX_SIZE:
            raise PatternError("it is too complex to hold together with another pattern", _WORK)
    if _END not in edges[_START]:
        raise ContradictionError("no text matches it together with the other constraints")
    node = edges[_START][_END]
    if _size(node) > _MAX_SIZE:
        raise PatternError("it is too complex to hold together with another pattern", _WORK)
    return node


def _joined(nodes: Iterable[Node]) -> Node:
    parts: list[Node] = []
    for node in nodes:
        parts.extend(node.parts if isinstance(node, Sequence) else (node,))
    return parts[0] if len(parts) == 1 else Sequence(tuple(parts))


def _either(left: Node, right: Node) -> Node:
    if left == right:
        return left
    if _NOTHING in (left, right):
        return Repeat(right if left == _NOTHING else left, 0, 1)
    options = [*_options(left), *_options(right)]
    return Choice(tuple(dict.fromkeys(options)))


def _options(node: Node) -> tuple[Node, ...]:
    return node.options if isinstance(node, Choice) else (node,)


def _size(node: Node) -> int:
    match node:
        case CharacterSet():
            return 1
        case Sequence(parts) | Choice(parts):
            return sum(map(_size, parts)) + 1
        case Repeat(part, _, _):
            return _size(part) + 1
