"""Rendering the checkpoint's own chat template so that only the template can write control tokens.

When the template is compiled, every text of a control token in its *source* is replaced by a placeholder that
nobody outside this process can guess. After rendering, the placeholders are the control tokens, and
everything else is text, even if a user, a tool or the model wrote the text of a control token, or if two
adjacent strings form one. User input need not be searched or changed.

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
from jinja2 import meta, nodes
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from serval.chat.as_written import written_json
from serval.chat.tokenizer import ControlToken, OwnTokens, Piece
from serval.errors import InvalidRequestError, ModelFilesError

# Special tokens in tokenizer_config.json that templates use as variables.
_TOKEN_VARIABLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)

# Variables with the conversation, which only this module sets.
_CONVERSATION = ("messages", "tools", "tool_choice", "add_generation_prompt")

_DICT_ATTRIBUTES = frozenset(dir(dict))


class ChatTemplate:
    """A compiled template; `render` is safe to call from several threads."""

    def __init__(
        self, source: str, *, control_tokens: Sequence[ControlToken], variables: Mapping[str, str], name: str
    ) -> None:
        self.source = source
        self._tokens = tuple(control_tokens)
        self._nonce = secrets.token_hex(16)
        self._placeholder = re.compile(f"\ue000{self._nonce}([0-9]+)\ue001")
        # Longest first: if two control tokens start at the same place, the tokenizer matches the longer one.
        longest_first = sorted(range(len(self._tokens)), key=lambda i: -len(self._tokens[i].content))
        self._index = {self._tokens[i].content: i for i in longest_first}
        self._control_text = re.compile("|".join(re.escape(text) for text in self._index) or r"(?!)")
        environment = _environment()
        try:
            tree = environment.parse(source)
            self._hide_control_tokens(tree)
            code = environment.compile(tree, name=name)
            # Every rendering copies the globals, and a plain dictionary is far cheaper to copy than
            # Jinja's own ChainMap of two.
            self._template = jinja2.Template.from_code(environment, code, dict(environment.globals))
        except jinja2.TemplateSyntaxError as error:
            raise ModelFilesError(f"{name}, line {error.lineno}: {error.message}") from error
        self._variables = {key: self._hide(value) for key, value in variables.items()}
        # Variables that a request may set.
        self.optional_variables = frozenset(
            meta.find_undeclared_variables(tree)
            - environment.globals.keys()
            - variables.keys()
            - {*_TOKEN_VARIABLES, *_CONVERSATION}
        )

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
        options: Mapping[str, Any] | None = None,
        own: Sequence[OwnTokens] = (),
    ) -> list[Piece]:
        """Render a conversation to text and control tokens, up to where the model's answer begins.

        `own` take the place of the texts that `own_text` returns. `options` are values of
        `optional_variables`, by name; others may only be null or false.
        Raises `InvalidRequestError` if the template does not read one, or refuses the conversation.
        """
        chosen = {name: value for name, value in (options or {}).items() if value is not None}
        for name in sorted(chosen.keys() - self.optional_variables):
            # False asks for nothing, so clients may send it to any model.
            if chosen.pop(name) is False:
                continue
            raise InvalidRequestError(
                f"chat_template_kwargs has {name[:64]!r}, which this model's template does not read; it reads"
                f" {sorted(self.optional_variables)}.",
                param="chat_template_kwargs",
            )
        try:
            rendered = self._template.render(
                {**chosen, **self._variables},
                messages=messages,
                tools=tools or None,
                # For the choice "none" the caller passes no tools.
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
        return self._pieces(rendered, own)

    def own_text(self, number: int) -> str:
        """Return the text that stands for the own tokens of this number; nobody else can write it."""
        return f"\ue000{self._nonce}{len(self._tokens) + number}\ue001"

    def _pieces(self, rendered: str, own: Sequence[OwnTokens]) -> list[Piece]:
        # Unlike a regular expression's, this search takes a long text at the speed of copying it.
        text, *others = rendered.split(f"\ue000{self._nonce}")
        pieces: list[Piece] = [text]
        known: Sequence[Piece] = (*self._tokens, *own) if own else self._tokens
        for other in others:
            number, _, text = other.partition("\ue001")
            pieces += (known[int(number)], text)
        return pieces


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with faster attribute access on dictionaries, such as `message.role`."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return the attribute, or the item if there is no such attribute, as Jinja does."""
        # Jinja tries the attribute first; the failed lookup costs several times as much as reading the item.
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
    """Filter `tojson` of transformers: unlike Jinja's it does not escape HTML or non-ASCII characters.

    A number that remembers its literal is written as that literal.
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
    """Load chat_template.jinja or else the template in tokenizer_config.json. Raises `ModelFilesError`."""
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
