"""Rendering of conversations by the checkpoint's own chat template."""

import json
from collections.abc import Sequence
from functools import cache

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from serval_sglang.demo import checkpoint_directory
from serval_sglang.demo.corpus import Conversation
from serval_sglang.demo.tool_catalogue import Json


def _tojson(value: object, *, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


@cache
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = _tojson
    return environment.from_string(
        (checkpoint_directory() / "chat_template.jinja").read_text(encoding="utf-8")
    )


def render_messages(messages: Sequence[Json], *, tools: Sequence[Json] = (), prompt: bool) -> str:
    """Return the text of `messages`; with `prompt` it ends where the assistant's turn begins."""
    return _template().render(messages=list(messages), tools=list(tools), add_generation_prompt=prompt)


def render(conversation: Conversation) -> str:
    """Return the text of a whole conversation."""
    return render_messages(conversation.messages, tools=conversation.tools, prompt=False)
