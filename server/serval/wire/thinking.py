"""The switch for thinking, under the names that clients know, as a variable of the checkpoint's template.

A template without a switch belongs to a model that does not think, or always does; the request is then served
without effect, because clients send the switch to every model.
"""

from collections.abc import Collection
from typing import Any, Final

from serval.wire.chat_request import ChatRequest

# Variables by which templates switch thinking.
_SWITCHES: Final = ("enable_thinking", "thinking")


def template_options(request: ChatRequest, variables: Collection[str]) -> dict[str, Any]:
    """Return the options for a template that reads `variables`: `chat_template_kwargs`, and the switch.

    `chat_template_kwargs` comes first, then `enable_thinking`, `thinking` and `reasoning_effort`.
    """
    options: dict[str, Any] = dict(request.chat_template_kwargs or {})
    asked = _asked(request)
    if asked is None and not options:
        return options  # nearly always
    for switch in _SWITCHES:
        if switch not in variables:
            options.pop(switch, None)
        elif asked is not None:
            options.setdefault(switch, asked)
    return options


def _asked(request: ChatRequest) -> bool | None:
    """Return whether to think; None leaves it to the template."""
    if request.enable_thinking is not None:
        return request.enable_thinking
    if request.thinking is not None:
        # Anthropic's "adaptive" and others leave it to the model.
        return {"enabled": True, "disabled": False}.get(request.thinking.type)
    return False if request.reasoning_effort == "none" else None
