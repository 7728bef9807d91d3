"""The dialect of LongCat-Flash-Chat: a call is one JSON object between call markers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serval.grammar.compile_cost import Budget
from serval.grammar.constraints import Schema
from serval.grammar.dialect import Dialect
from serval.grammar.dialects.arguments import argument_options, check_may_be_empty, writable_name
from serval.grammar.enforceable import Rewriter
from serval.grammar.formats import Format, json_value
from serval.schema import strict_json
from serval.tools.json_calls import JSON_REPLY
from serval.tools.markers import TOOL_CALL_CLOSE, TOOL_CALL_OPEN

# A marker inside a JSON string is data to the parser.
_AVOID: Final = ""
_OTHER_NAMES: Final = frozenset({"additionalProperties", "patternProperties", "propertyNames"})


def _call_tag(function: Mapping[str, Any], *, enforced: bool, budget: Budget) -> Format:
    name = writable_name(function, bool)
    strict = bool(function.get("strict"))
    parameters = function.get("parameters") if enforced else None
    rewriter = Rewriter(parameters, strict=strict, avoid=_AVOID, budget=budget)
    arguments = _arguments(parameters, name, rewriter) if enforced else None
    return {
        "type": "tag",
        "begin": f'{TOOL_CALL_OPEN}\n{{"name": {strict_json.encode(name)}, "arguments": ',
        "content": json_value({"type": "object"}, rewriter) if arguments is None else arguments,
        "end": [f"}}\n{TOOL_CALL_CLOSE}\n", f"}}\n{TOOL_CALL_CLOSE}"],
    }


def _arguments(parameters: Any, name: str, rewriter: Rewriter) -> Format | None:
    """Return the format of the arguments; None if `parameters` cannot be enforced and are not strict."""
    options = argument_options(parameters, rewriter, f"tools/{name}/parameters", _object)
    if options is None:
        return None
    return json_value(options[0] if len(options) == 1 else {"anyOf": options}, rewriter)


def _object(single: Schema, rewriter: Rewriter, path: str) -> Schema:
    if not rewriter.properties(single, path) and not _OTHER_NAMES & single.keys():
        check_may_be_empty(single, path)
        single = {"additionalProperties": False}
    return rewriter.rewritten({"type": "object"} | single, path, 0)


LONGCAT_JSON: Final = Dialect(
    reply=JSON_REPLY,
    call_tag=_call_tag,
    not_in_text=(TOOL_CALL_CLOSE,),
    avoid_in_json=_AVOID,
)
