"""Grammars in Lark's syntax, as clients of the Responses API write them for the input of custom tools.

A grammar without recursion describes a regular language and becomes a pattern. Written here because the
package `lark` takes a quarter of a second to load, during which no answer would be streamed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from serval.grammar import pattern
from serval.grammar.free_grammar import MAX_EBNF_CHARACTERS
from serval.grammar.pattern import CharacterSet, Choice, Node, Repeat, Sequence
from serval.schema.error import SchemaError

# Nesting of rules and groups.
_MAX_DEPTH: Final = 100
_TOKEN: Final = re.compile(
    r"""(?P<space>[ \t]+|(?://|\#)[^\n]*) | (?P<line>(?:[ \t]*\r?\n)+) | (?P<string>"(?:[^"\\\n]|\\.)*"i?)
    | (?P<regex>/(?!/)(?:\\.|[^/\\\n])+/[a-z]*) | (?P<statement>%[a-z]+)
    | (?P<name>[!?]*_?[A-Za-z][A-Za-z0-9_]*) | (?P<number>[0-9]+) | (?P<sign>->|\.\.|[()\[\]{}|:~.,*+?])""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_CONTROLS: Final = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}
_REPEATS: Final[Mapping[str, tuple[int, int | None]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
# Terminals of Lark's module `common`, as regular expressions.
_NUMBER: Final = r"[0-9]+(\.[0-9]*)?([eE][+\-]?[0-9]+)?|\.[0-9]+([eE][+\-]?[0-9]+)?"
_COMMON: Final = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[a-fA-F0-9]",
    "INT": "[0-9]+",
    "SIGNED_INT": r"[+\-]?[0-9]+",
    "DECIMAL": r"[0-9]+\.[0-9]*|\.[0-9]+",
    "NUMBER": _NUMBER,
    "SIGNED_NUMBER": rf"[+\-]?({_NUMBER})",
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[a-zA-Z]",
    "WORD": "[a-zA-Z]+",
    "CNAME": "[_a-zA-Z][_a-zA-Z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(\r?\n)+",
}


class NotEnforceableError(Exception):
    """The grammar is not one that becomes a pattern. It may be valid all the same."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


@dataclass(frozen=True, slots=True)
class _Sized:
    """A node, and the number of characters that it unfolds to."""

    node: Node
    size: int


def lark_node(definition: str) -> Node:
    """Return the pattern of the texts that the grammar's rule `start` describes.

    Raises `SchemaError`, with an empty path, for a grammar that is too large; `NotEnforceableError` for one
    that cannot be read, recurses, or has features beyond rules, terminals and `%import common`.
    """
    if len(definition) > MAX_EBNF_CHARACTERS:
        raise SchemaError("", f"it has more than {MAX_EBNF_CHARACTERS} characters")
    return _Grammar(definition).named("start", line=1).node


def _tokens(definition: str) -> list[_Token]:
    tokens = []
    position, line = 0, 1
    while position < len(definition):
        found = _TOKEN.match(definition, position)
        if found is None or found.lastgroup is None:
            raise _malformed(line, f"{definition[position : position + 20]!r} is not Lark's syntax")
        if found.lastgroup != "space":
            tokens.append(_Token(found.lastgroup, found[0], line))
        position, line = found.end(), line + found[0].count("\n")
    return tokens


def _malformed(line: int, problem: str) -> NotEnforceableError:
    return NotEnforceableError(f"line {line}: {problem}")


class _Grammar:
    """Converts rules and terminals to nodes, each once."""

    def __init__(self, definition: str) -> None:
        # Bodies of rules and terminals, behind their colons.
        self._bodies: dict[str, list[_Token]] = {}
        self._known: dict[str, _Sized] = {}
        self._open: set[str] = set()
        self.depth = 0
        for item in _items(_tokens(definition)):
            self._define(item)

    def named(self, name: str, *, line: int) -> _Sized:
        """Return the node of a rule or terminal that is named in `line`."""
        if name in self._known:
            return self._known[name]
        if name in self._open:
            raise NotEnforceableError(f"{name} is recursive")
        if name not in self._bodies:
            raise _malformed(line, f"there is no rule or terminal {name}")
        self._open.add(name)
        made = self._known[name] = _Body(self, self._bodies[name]).read()
        self._open.remove(name)
        return made

    def _define(self, item: list[_Token]) -> None:
        head, *rest = item
        if head.kind == "statement":
            if head.text != "%import":
                raise NotEnforceableError(f"it has a statement {head.text}")
            self._import("".join(f" {each.text}" for each in rest).split())
            return
        if head.kind == "name" and len(rest) > 2 and [each.text for each in rest[:1]] == ["."]:
            rest = rest[2:]  # a priority
        if head.kind == "name" and rest and rest[0].text == "{":
            raise NotEnforceableError("it has templates")
        if head.kind != "name" or not rest or rest[0].text != ":":
            raise _malformed(head.line, "a rule is a name, a colon and what it matches")
        name = _bare(head.text)
        if name in self._bodies:
            raise _malformed(head.line, f"{name} is defined twice")
        self._bodies[name] = rest[1:]

    def _import(self, words: list[str]) -> None:
        if words[:2] != ["common", "."] and words[:2] != ["common", "("]:
            raise NotEnforceableError("it imports other things than terminals of common")
        if words[1] == "(":
            names = [(word, word) for word in words[2:-1] if word != ","]
        else:
            names = [(words[-1] if "->" in words else words[2], words[2])] if len(words) > 2 else []
        for name, original in names:
            if original not in _COMMON:
                raise NotEnforceableError(f"it imports {original} of common")
            node = pattern.parse(f"^(?:{_COMMON[original]})$")
            self._known.setdefault(name, _Sized(node, pattern.states(node)))


def _items(tokens: list[_Token]) -> list[list[_Token]]:
    """Split tokens into rules and statements: each begins a line, but `|` continues the one before."""
    items: list[list[_Token]] = [[]]
    for index, token in enumerate(tokens):
        if token.kind != "line":
            items[-1].append(token)
        elif index + 1 < len(tokens) and tokens[index + 1].text != "|":
            items.append([])
    return [item for item in items if item]


def _bare(name: str) -> str:
    return name.lstrip("!?")


class _Body:
    """Recursive descent through the body of one rule or terminal."""

    def __init__(self, grammar: _Grammar, tokens: list[_Token]) -> None:
        self._grammar = grammar
        self._tokens = tokens
        self._position = 0

    def read(self) -> _Sized:
        made = self._choice()
        if self._position < len(self._tokens):
            token = self._tokens[self._position]
            raise _malformed(token.line, f"{token.text!r} cannot stand here")
        return made

    def _peek(self) -> str:
        return self._tokens[self._position].text if self._position < len(self._tokens) else ""

    def _take(self, *texts: str) -> str:
        """Return the next token's text if it is one of `texts`, and pass it."""
        found = self._peek()
        if found not in texts or not found:
            return ""
        self._position += 1
        return found

    def _choice(self) -> _Sized:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        made = Choice(tuple(option.node for option in options)) if len(options) > 1 else options[0].node
        return _bounded(made, sum(option.size for option in options))

    def _sequence(self) -> _Sized:
        parts = []
        while self._peek() not in ("", "|", ")", "]", "->"):
            parts.append(self._repeated())
        if self._take("->"):
            self._position += 1  # an alias
        # At least 1, because parts without any text take time as well.
        size = 1 + sum(part.size for part in parts)
        return _bounded(Sequence(tuple(part.node for part in parts)), size)

    def _repeated(self) -> _Sized:
        part = self._atom()
        sign = self._take(*_REPEATS, "~")
        if not sign:
            return part
        least, most = _REPEATS[sign] if sign != "~" else self._counts()
        return _bounded(Repeat(part.node, least, most), part.size * max(least, most or 1, 1))

    def _counts(self) -> tuple[int, int]:
        least = self._count()
        most = self._count() if self._take("..") else least
        if most < least:
            raise _malformed(self._tokens[self._position - 1].line, f"{least}..{most} runs backwards")
        return least, most

    def _count(self) -> int:
        token = self._next()
        if token.kind != "number" or len(token.text) > 5:
            raise _malformed(token.line, f"{token.text!r} is no count of at most five digits")
        return int(token.text)

    def _next(self) -> _Token:
        if self._position == len(self._tokens):
            raise _malformed(self._tokens[-1].line if self._tokens else 1, "it ends too early")
        self._position += 1
        return self._tokens[self._position - 1]

    def _atom(self) -> _Sized:
        self._grammar.depth += 1
        if self._grammar.depth > _MAX_DEPTH:
            raise SchemaError("", f"its rules and groups are nested deeper than {_MAX_DEPTH}")
        made = self._atom_of(self._next())
        self._grammar.depth -= 1
        return made

    def _atom_of(self, token: _Token) -> _Sized:
        match token.kind:
            case "name":
                if self._peek() == "{":
                    raise NotEnforceableError("it has templates")
                return self._grammar.named(_bare(token.text), line=token.line)
            case "string" if self._take(".."):
                return _Sized(_range(token, self._next()), 1)
            case "string":
                node = _string(token)
                return _Sized(node, len(node.parts))
            case "regex":
                return _regex(token.text)
        if token.text not in ("(", "["):
            raise _malformed(token.line, f"{token.text!r} cannot stand here")
        inner = self._choice()
        if not self._take(")" if token.text == "(" else "]"):
            raise _malformed(token.line, "a group is not closed")
        return inner if token.text == "(" else _Sized(Repeat(inner.node, 0, 1), inner.size)


def _bounded(node: Node, size: int) -> _Sized:
    if size > pattern.MAX_STATES:
        raise SchemaError("", f"it unfolds to more than {pattern.MAX_STATES} characters")
    return _Sized(node, size)


def _regex(written: str) -> _Sized:
    body, _, flags = written[1:].rpartition("/")
    if flags:
        raise NotEnforceableError("it has a regular expression with flags")
    try:
        node = pattern.parse(f"^(?:{body})$")
    except pattern.PatternError as error:
        raise NotEnforceableError(str(error)) from None
    return _bounded(node, pattern.states(node))


def _string(token: _Token) -> Sequence:
    ignores_case = token.text.endswith("i")
    return Sequence(tuple(_character(each, ignores_case=ignores_case) for each in _text(token)))


def _character(character: str, *, ignores_case: bool) -> CharacterSet:
    forms = {character, character.lower(), character.upper()} if ignores_case else {character}
    ranges = pattern.union([(ord(form), ord(form)) for form in forms if len(form) == 1])
    return CharacterSet(ranges, named=ranges)


def _range(first: _Token, last: _Token) -> CharacterSet:
    low, high = _text(first), _text(last) if last.kind == "string" else ""
    if len(low) != 1 or len(high) != 1 or low > high:
        raise _malformed(first.line, f"{first.text}..{last.text} is no range of characters")
    return CharacterSet(pattern.without(((ord(low), ord(high)),), ((0xD800, 0xDFFF),)))


def _text(token: _Token) -> str:
    """Return the text of a quoted string."""

    def character(escape: re.Match[str]) -> str:
        code = escape[1] or escape[2] or escape[3]
        if code is None:
            return _CONTROLS.get(escape[4], escape[4])
        if int(code, 16) > 0x10FFFF or 0xD800 <= int(code, 16) <= 0xDFFF:
            raise _malformed(token.line, f"{escape[0]} is no character")
        return chr(int(code, 16))

    return _ESCAPE.sub(character, token.text.removesuffix("i")[1:-1])
