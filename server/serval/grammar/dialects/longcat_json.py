"""LongCat-Flash-Chat's dialect: a call is one JSON object between the call markers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from serval.grammar.dialect import Dialect
from serval.grammar.dialects.arguments import arguments_object, check_may_be_empty, writable_name
from serval.grammar.enforceable import Rewriter
from serval.grammar.formats import Format, json_value
from serval.schema import strict_json
from serval.tools.json_calls import JSON_REPLY
from serval.tools.markers import TOOL_CALL_CLOSE, TOOL_CALL_OPEN

# Inside the strings of a call a marker is data.
_AVOID: Final = ""
_OTHER_NAMES: Final = frozenset({"additionalProperties", "patternProperties", "propertyNames"})


def _call_tag(function: Mapping[str, Any], *, enforced: bool) -> Format:
    name = writable_name(function, bool)
    strict = bool(function.get("strict"))
    rewriter = Rewriter(function.get("parameters") if enforced else None, strict=strict, avoid=_AVOID)
    arguments = _arguments(function.get("parameters"), name, rewriter) if enforced else None
    return {
        "type": "tag",
        "begin": f'{TOOL_CALL_OPEN}\n{{"name": {strict_json.encode(name)}, "arguments": ',
        "content": json_value({"type": "object"}, rewriter) if arguments is None else arguments,
        "end": [f"}}\n{TOOL_CALL_CLOSE}\n", f"}}\n{TOOL_CALL_CLOSE}"],
    }


def _arguments(parameters: Any, name: str, rewriter: Rewriter) -> Format | None:
    """The arguments that `parameters` admit; None if that cannot be enforced and need not be."""
    path = f"tools/{name}/parameters"
    single = arguments_object(parameters, rewriter, path)
    if single is None:
        return None
    if not rewriter.properties(single, path) and not _OTHER_NAMES & single.keys():
        check_may_be_empty(single, path)
        single = {"additionalProperties": False}
    return json_value(rewriter.rewritten({"type": "object"} | single, path, 0), rewriter)


LONGCAT_JSON: Final = Dialect(
    reply=JSON_REPLY,
    call_tag=_call_tag,
    not_in_text=(TOOL_CALL_CLOSE,),
    avoid_in_json=_AVOID,
)
