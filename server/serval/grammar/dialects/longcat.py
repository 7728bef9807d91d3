"""The dialect of LongCat-Flash-Lite: arguments as pairs of a key and a value between markers.

xgrammar has no tag for it, and the markers of its `glm_xml` are fixed, so it is built from basic formats.
Arguments are written in the order of their declaration, which is how the model saw them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from serval.grammar import pattern
from serval.grammar.compile_cost import Budget
from serval.grammar.constraints import Schema
from serval.grammar.dialect import Dialect
from serval.grammar.dialects.arguments import (
    argument_options,
    check_may_be_empty,
    is_utf8,
    writable_name,
)
from serval.grammar.enforceable import Rewriter, pointer_part, satisfiable
from serval.grammar.enforceable_scalars import WrittenPattern, lengths_of
from serval.grammar.formats import EMPTY, Format, json_value, sequence, text_format
from serval.grammar.free_text import free_text_format
from serval.grammar.input_grammar import CUSTOM_INPUT, input_node
from serval.grammar.pattern_rules import pattern_cost
from serval.grammar.string_formats import FORMAT_PATTERNS
from serval.schema.error import SchemaError, UnsatisfiableError
from serval.tools.longcat_calls import LONGCAT_REPLY
from serval.tools.markers import (
    KEY_CLOSE,
    KEY_OPEN,
    TOOL_CALL_CLOSE,
    TOOL_CALL_OPEN,
    VALUE_CLOSE,
    VALUE_OPEN,
)

_MARKERS: Final = (TOOL_CALL_OPEN, TOOL_CALL_CLOSE, KEY_OPEN, KEY_CLOSE, VALUE_OPEN, VALUE_CLOSE)
_NOT_IN_VALUE: Final = [TOOL_CALL_OPEN, TOOL_CALL_CLOSE, KEY_OPEN, VALUE_OPEN, VALUE_CLOSE]
_AVOID: Final = LONGCAT_REPLY.marker_start
_ANY_VALUE: Final[Format] = {"type": "any_text", "excludes": _NOT_IN_VALUE}
_ANY_KEY: Final[Format] = {
    "type": "regex",
    "pattern": pattern.write(pattern.parse(r"^[^<\s][^<\n]*$"), in_json=False, avoid=_AVOID),
}
# Text this short can begin at most one marker, and a single marker in a value is data to the parser.
_FREE_CHARACTERS: Final = 8
# Shorter text cannot hold the closing value marker and another marker after it, which together end a value.
_TWO_MARKERS: Final = len(VALUE_CLOSE) + len(KEY_OPEN)
# A character that begins neither an array nor an object.
_NO_JSON_START: Final = pattern.write(pattern.parse(r"^[^\s{\[<]$"), in_json=False, avoid=_AVOID)


def _call_tag(function: Mapping[str, Any], *, enforced: bool, budget: Budget) -> Format:
    name = writable_name(function, _is_writable_name)
    arguments = None
    if "input_grammar" in function:
        arguments = _input(**function["input_grammar"], path=f"tools/{name}/format/definition", budget=budget)
    elif enforced:
        arguments = _arguments(
            function.get("parameters"), name, strict=bool(function.get("strict")), budget=budget
        )
    return {
        "type": "tag",
        "begin": f"{TOOL_CALL_OPEN}{name}\n",
        "content": _any_arguments() if arguments is None else arguments,
        "end": [f"{TOOL_CALL_CLOSE}\n", TOOL_CALL_CLOSE],
    }


def _input(syntax: str, definition: str, *, path: str, budget: Budget) -> Format:
    """Return the format of the one argument of a custom tool, a text that follows a grammar."""
    # Its check has been paid for when the request was decoded.
    node = input_node(syntax, definition, Budget())
    budget.spend(pattern_cost(node), path, once_for=definition)
    text = free_text_format(node, avoid=_AVOID, excludes=_NOT_IN_VALUE)
    return _pair({"type": "const_string", "value": CUSTOM_INPUT}, text)


def _arguments(parameters: Any, name: str, *, strict: bool, budget: Budget) -> Format | None:
    """Return the format of the arguments; None if `parameters` cannot be enforced and are not strict."""
    path = f"tools/{name}/parameters"
    rewriter = Rewriter(parameters, strict=strict, avoid=_AVOID, budget=budget)
    options = argument_options(parameters, rewriter, path, _object)
    if options is None or None in options:
        return None
    return options[0] if len(options) == 1 else {"type": "or", "elements": options}


def _object(single: Schema, rewriter: Rewriter, path: str) -> Format | None:
    """Return the format of the arguments in one object; None if it cannot be enforced and is not strict."""
    properties = rewriter.properties(single, path)
    if not properties:
        return _unnamed_arguments(single, rewriter, path)
    required = single.get("required", ())
    arguments: list[Format] = []
    for key, schema in properties.items():
        below = f"{path}/properties/{pointer_part(key)}"
        if any(marker in key for marker in _MARKERS) or not is_utf8(key):
            raise SchemaError(below, "a name with a marker of LongCat's format in it cannot be written")
        try:
            argument = _pair({"type": "const_string", "value": key}, _value(schema, rewriter, below))
        except UnsatisfiableError:
            if key in required:
                raise
            continue
        arguments.append(argument if key in required else {"type": "optional", "content": argument})
    return {"type": "sequence", "elements": arguments} if arguments else EMPTY


def _unnamed_arguments(single: Schema, rewriter: Rewriter, path: str) -> Format | None:
    """Return the format without declared arguments: empty, unless `additionalProperties` is a schema."""
    for keyword in {"patternProperties", "propertyNames"} & single.keys():
        rewriter.refuse(path, keyword)
        return None
    others = single.get("additionalProperties", False)
    least, most = single.get("minProperties", 0), single.get("maxProperties", -1)
    if others is False:
        check_may_be_empty(single, path)
        return EMPTY
    if least > 1:
        rewriter.refuse(path, "minProperties", "more than 1 is, only with required")
    pair = _pair(_ANY_KEY, _value(others, rewriter, f"{path}/additionalProperties"))
    return {"type": "repeat", "min": min(least, 1), "max": most, "content": pair}


def _any_arguments() -> Format:
    return {"type": "star", "content": _pair(_ANY_KEY, _ANY_VALUE)}


def _pair(key: Format, value: Format) -> Format:
    if key["type"] == "const_string":
        begin, content = f"{KEY_OPEN}{key['value']}{KEY_CLOSE}\n{VALUE_OPEN}", value
    else:
        between = {"type": "const_string", "value": f"{KEY_CLOSE}\n{VALUE_OPEN}"}
        begin, content = KEY_OPEN, {"type": "sequence", "elements": [key, between, value]}
    return {"type": "tag", "begin": begin, "content": content, "end": f"{VALUE_CLOSE}\n"}


def _value(schema: Any, rewriter: Rewriter, path: str) -> Format:
    """Return the format of one value: strings as raw text, everything else as JSON."""
    singles = rewriter.alternatives(schema, path)
    options = satisfiable(partial(_option, single, rewriter, path) for single in singles)
    texts = [text for found, _ in options for text in found]
    values = [value for _, found in options for value in found]
    if _ANY_VALUE in texts:
        # Any text, including JSON. The parser reads valid JSON as a value of another type, but it does not
        # run patterns: if there are any, text that looks like an object or an array must not be a string.
        if not any(value["type"] == "grammar" or '"pattern' in json.dumps(value) for value in values):
            return _ANY_VALUE
        unlike_json = sequence({"type": "regex", "pattern": _NO_JSON_START}, _ANY_VALUE)
        texts = [EMPTY, unlike_json]
    if not texts and not values:
        raise UnsatisfiableError(path)
    return texts[0] if len(texts) == 1 and not values else {"type": "or", "elements": texts + values}


def _option(single: Schema, rewriter: Rewriter, path: str) -> tuple[list[Format], list[Format]]:
    """Return the formats of one alternative: those of its raw strings, and those of its JSON values."""
    if not single:
        return [_ANY_VALUE], []
    if "enum" in single:
        others = [value for value in single["enum"] if not isinstance(value, str)]
        strings = _listed_strings(single["enum"], rewriter, path)
        return strings, [json_value({"enum": others}, rewriter)] if others else []
    if single["type"] == "string":
        return [_string(single, rewriter, path)], []
    return [], [json_value(rewriter.rewritten(single, path, 0), rewriter)]


def _listed_strings(values: list[Any], rewriter: Rewriter, path: str) -> list[Format]:
    strings = [value for value in values if isinstance(value, str)]
    for value in strings:
        if any(marker in value for marker in _MARKERS) or not is_utf8(value):
            rewriter.refuse(path, "enum", f"{value!r:.80} holds a marker of LongCat's format")
    return [{"type": "const_string", "value": value} for value in strings if is_utf8(value)]


def _string(single: Schema, rewriter: Rewriter, path: str) -> Format:
    if "pattern" not in single and single.get("format") not in FORMAT_PATTERNS:
        return _of_length(*lengths_of(single, path, rewriter.refuse), rewriter, path)
    written = rewriter.pattern_of(single, path, in_json=False)
    return _ANY_VALUE if written is None else text_format(written, avoid=_AVOID)


def _of_length(least: int, most: float, rewriter: Rewriter, path: str) -> Format:
    if most < _TWO_MARKERS:
        return _characters(pattern.ANY_CHARACTER, least, int(most), rewriter, path)
    free = min(least, _FREE_CHARACTERS)
    rest = _ANY_VALUE if most == math.inf else _ANY_VALUE | {"max_chars": most - least}
    parts = [_characters(pattern.ANY_CHARACTER, free, free, rewriter, path)] if free else []
    if least > free:
        parts.append(_characters(pattern.WILD_CHARACTER, least - free, least - free, rewriter, path))
    return sequence(*parts, rest)


def _characters(kind: pattern.CharacterSet, least: int, most: int, rewriter: Rewriter, path: str) -> Format:
    node = pattern.Repeat(kind, least, most)
    written = WrittenPattern(node, pattern_cost(node), in_json=False, avoid=_AVOID)
    return text_format(rewriter.paid(written, path), avoid=_AVOID)


def _is_writable_name(name: str) -> bool:
    return bool(name) and name == name.strip() and not name.startswith("{") and not set(name) & {"\n", _AVOID}


LONGCAT: Final = Dialect(
    reply=LONGCAT_REPLY,
    call_tag=_call_tag,
    not_in_text=(TOOL_CALL_CLOSE, KEY_OPEN, VALUE_OPEN, VALUE_CLOSE),
    avoid_in_json=_AVOID,
)
