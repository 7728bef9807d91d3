"""The checkpoint's own chat template, rendered so that only the template can write control tokens.

Every control token text in the template's *source* is replaced, when the template is compiled, by a
placeholder that nobody outside this process can guess. After rendering, placeholders are the control tokens;
everything else is text, also where a user, a tool or the model wrote the text of a control token, and also
where such a text only comes about by two strings meeting. Nothing has to be searched in or changed about what
users send.

Environment and filters follow `transformers.utils.chat_template_utils._cached_compile_jinja_template`.
"""

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from serval.chat.as_written import written_json
from serval.chat.tokenizer import ControlToken, Piece
from serval.errors import InvalidRequestError, ModelFilesError

# Names under which tokenizer_config.json gives special tokens to the template.
_TOKEN_VARIABLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)

_DICT_ATTRIBUTES = frozenset(dir(dict))


class ChatTemplate:
    """A compiled template; `render` is safe to call from several threads."""

    def __init__(
        self, source: str, *, control_tokens: Sequence[ControlToken], variables: Mapping[str, str], name: str
    ) -> None:
        self._tokens = tuple(control_tokens)
        self._nonce = secrets.token_hex(16)
        self._placeholder = re.compile(f"\ue000{self._nonce}([0-9]+)\ue001")
        # Longest first: where two control tokens start at the same place, the tokenizer takes the longer.
        longest_first = sorted(range(len(self._tokens)), key=lambda i: -len(self._tokens[i].content))
        self._index = {self._tokens[i].content: i for i in longest_first}
        self._control_text = re.compile("|".join(re.escape(text) for text in self._index) or r"(?!)")
        environment = _environment()
        try:
            tree = environment.parse(source)
            self._hide_control_tokens(tree)
            code = environment.compile(tree, name=name)
            # A plain dictionary: every rendering copies it, and Jinja's chain of two costs far more to copy.
            self._template = jinja2.Template.from_code(environment, code, dict(environment.globals))
        except jinja2.TemplateSyntaxError as error:
            raise ModelFilesError(f"{name}, line {error.lineno}: {error.message}") from error
        self._variables = {key: self._hide(value) for key, value in variables.items()}

    def _hide(self, text: str) -> str:
        return self._control_text.sub(
            lambda match: f"\ue000{self._nonce}{self._index[match.group()]}\ue001", text
        )

    def _hide_control_tokens(self, tree: nodes.Template) -> None:
        for data in tree.find_all(nodes.TemplateData):
            data.data = self._hide(data.data)
        for constant in tree.find_all(nodes.Const):
            if isinstance(constant.value, str):
                constant.value = self._hide(constant.value)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None,
    ) -> list[Piece]:
        """The conversation as text and control tokens, ending where the model's answer begins.

        Raises `InvalidRequestError` if the template refuses the conversation.
        """
        try:
            rendered = self._template.render(
                self._variables,
                messages=messages,
                tools=tools or None,
                # With the choice "none" there are no tools.
                tool_choice="auto",
                add_generation_prompt=True,
            )
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            reason = self._placeholder.sub(
                lambda match: self._tokens[int(match.group(1))].content, str(error)
            )
            raise InvalidRequestError(
                f"The model's chat template refuses this conversation: {reason}", param="messages"
            ) from error
        parts: list[Piece] = list(self._placeholder.split(rendered))
        # re.split puts the captured token numbers at the odd places.
        for place in range(1, len(parts), 2):
            parts[place] = self._tokens[int(str(parts[place]))]
        return parts


class _Environment(ImmutableSandboxedEnvironment):
    """The same sandbox, quicker with what templates read most: `message.role`."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As Jinja's: the attribute, or else the item."""
        # Jinja first fails to find the attribute, and that costs several times more than the item.
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' `tojson`: unlike Jinja's own it escapes no HTML and keeps non-ASCII characters.

    A number of the history that remembers how the model wrote it is written that way.
    """
    written = written_json(value)
    if written is not None:
        return written
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def load_template(model_dir: Path, control_tokens: Sequence[ControlToken]) -> ChatTemplate:
    """The template of `chat_template.jinja`, or else of `tokenizer_config.json`. Raises `ModelFilesError`."""
    config_path = model_dir / "tokenizer_config.json"
    try:
        config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.exists() else {}
        template_path = model_dir / "chat_template.jinja"
        source = template_path.read_text(encoding="utf-8") if template_path.exists() else None
    except (OSError, ValueError) as error:
        raise ModelFilesError(f"cannot read the chat template in {model_dir}: {error}") from error
    if source is None:
        template_path = config_path
        source = _configured_template(config)
    if source is None:
        raise ModelFilesError(
            f"{model_dir} has no chat template: neither chat_template.jinja nor chat_template in"
            " tokenizer_config.json. Point --model at the folder that holds the model's tokenizer"
        )
    return ChatTemplate(
        source, control_tokens=control_tokens, variables=_token_variables(config), name=str(template_path)
    )


def _configured_template(config: Mapping[str, Any]) -> str | None:
    configured = config.get("chat_template")
    if isinstance(configured, list):
        named = {entry.get("name"): entry.get("template") for entry in configured}
        configured = named.get("default")
    return configured if isinstance(configured, str) else None


def _token_variables(config: Mapping[str, Any]) -> dict[str, str]:
    variables = {}
    for name in _TOKEN_VARIABLES:
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            variables[name] = text
    return variables
