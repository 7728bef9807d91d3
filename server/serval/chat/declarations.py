"""Declarations of single tools, in the text form that a checkpoint's chat template writes them.

Templates declare all tools at the very front of a prompt, so a tool that is loaded later would change the
whole prompt. Its declaration can stand in a message instead, where it is loaded. The text is found by
comparing two renderings, with and without the tool.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, Final

from serval.chat.conversation import template_tools
from serval.chat.template import ChatTemplate
from serval.errors import InvalidRequestError

_MOST_KEPT: Final = 256
_MOST_CHARACTERS: Final = 1 << 14

_CONVERSATION: Final = [{"role": "user", "content": ""}]
_FIRST: Final[Mapping[str, Any]] = {"function": {"name": "first", "description": ""}}


class ToolDeclarations:
    """See the module. Safe to use from several threads."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self._known: OrderedDict[str, str] = OrderedDict()
        self._lock = Lock()

    @property
    def size(self) -> int:
        """Number of declarations that are kept."""
        return len(self._known)

    def text_of(self, tool: Mapping[str, Any]) -> str:
        """Return the declaration of an OpenAI tool; its JSON if the template declares no tools.

        It is text wherever it is rendered: a control token's name in it does not become that token.
        """
        key = json.dumps(tool)
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known
        text = self._declared(tool)
        if len(key) <= _MOST_CHARACTERS:
            with self._lock:
                self._known[key] = text
                if len(self._known) > _MOST_KEPT:
                    self._known.popitem(last=False)
        return text

    def _declared(self, tool: Mapping[str, Any]) -> str:
        try:
            without, beside = self._without, self._rendered([_FIRST, tool])
        except InvalidRequestError:
            without = beside = ""
        # Behind the first tool's declaration, which both have; what follows the last one comes after it.
        pairs = enumerate(zip(without, beside, strict=False))
        start = next((place for place, (one, other) in pairs if one != other), len(without))
        text = beside[start : start + len(beside) - len(without)].strip(" \n\t,")
        return text or json.dumps(tool["function"], ensure_ascii=False)

    @cached_property
    def _without(self) -> str:
        return self._rendered([_FIRST])

    def _rendered(self, tools: Sequence[Mapping[str, Any]]) -> str:
        pieces = self._template.render(_CONVERSATION, tools=template_tools(tools))
        return "".join(piece if isinstance(piece, str) else piece.content for piece in pieces)
