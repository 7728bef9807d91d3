"""Rendering and tokenization of conversations: `load_chat(model_dir).render(messages, ...)`."""

import json
import sys
from array import array
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from msgspec import Struct
from tokenizers import Tokenizer

from serval.chat.conversation import template_messages, template_tools
from serval.chat.declarations import ToolDeclarations
from serval.chat.long_text import TokenLimitError
from serval.chat.own_rendering import can_continue, end_of_turn, with_own_texts, without_calls
from serval.chat.prompt_parts import PromptParts, parts_of
from serval.chat.segment_cache import SegmentCache
from serval.chat.template import ChatTemplate, load_template
from serval.chat.tokenizer import ControlSafeTokenizer, OwnTokens, Piece, load_tokenizer, segments
from serval.errors import InvalidRequestError, ModelFilesError

DEFAULT_SEGMENT_CACHE_BYTES = 64 << 20

_SAMPLING_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


class RenderedPrompt(Struct, frozen=True):
    """The prompt in pieces, and its token ids.

    The ids are more precise than the text: a control token's text in a user's message is only text.
    """

    pieces: Sequence[Piece]
    input_ids: list[int]
    # None if the template does not tell them.
    parts: PromptParts | None

    @property
    def text(self) -> str:
        """The prompt as text."""
        return "".join(piece if isinstance(piece, str) else piece.content for piece in self.pieces)


class ChatRenderer:
    """Renders conversations with a checkpoint's chat template. Safe to use from several threads."""

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: ControlSafeTokenizer,
        *,
        sampling_defaults: Mapping[str, float] | None = None,
        segment_cache_bytes: int = DEFAULT_SEGMENT_CACHE_BYTES,
        files: str = "",
    ) -> None:
        """`files`: digest of the files that decide on the tokens of a conversation."""
        self.files = files
        self._template = template
        self.tokenizer = tokenizer
        self._cache = SegmentCache(segment_cache_bytes)
        self.declarations = ToolDeclarations(template)
        any_tokens = OwnTokens(array("I"), tokenizer)
        self._end_of_turn = end_of_turn(template, any_tokens)
        # Tokens can take the place of the beginning of a conversation.
        self.can_continue = self._end_of_turn is not None and can_continue(template, any_tokens)
        self.sampling_defaults: Mapping[str, float] = dict(sampling_defaults or {})

    @property
    def template_source(self) -> str:
        """The template as its file has it."""
        return self._template.source

    @property
    def template_variables(self) -> frozenset[str]:
        """Variables of the template that a request may set."""
        return self._template.optional_variables

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        options: Mapping[str, Any] | None = None,
        continued: bool = False,
        own_turns: Mapping[int, "array[int]"] | None = None,
        beginning: "array[int] | None" = None,
        limit: int = sys.maxsize,
    ) -> RenderedPrompt:
        """Render OpenAI messages and tools, up to where the model's answer begins.

        `options` are further variables of the template. If `continued`, the text of the last message is the
        beginning of the answer. `own_turns` are the model's own tokens of turns with calls, by the index of
        their message. `beginning` are the tokens of the conversation up to the end of the model's first turn,
        in place of what is rendered until there; only if `can_continue`. Messages and tools have already been
        validated (`serval.wire`). A prompt of more than `limit` tokens is not encoded to its end. Raises
        `TokenLimitError`, and `InvalidRequestError`, naming the field at fault, for a conversation that
        cannot be rendered.
        """
        converted = template_messages(messages)
        if sum(len(message["content"]) for message in converted) > self.tokenizer.longest_text(limit):
            raise TokenLimitError
        before: Sequence[Mapping[str, Any]] = converted[:-1] if continued else converted
        ids_by_index = dict(own_turns or {})
        if beginning is not None:
            first = next(i for i, message in enumerate(converted) if message["role"] == "assistant")
            ids_by_index = {first: beginning} | {i: ids for i, ids in ids_by_index.items() if i != first}
        own = [OwnTokens(ids, self.tokenizer) for ids in ids_by_index.values()]
        if own and self._end_of_turn is not None:
            before = with_own_texts(before, list(ids_by_index), self._template)
        pieces = self._template.render(before, tools=template_tools(tools), options=options, own=own)
        if own and self._end_of_turn is not None:
            pieces = without_calls(pieces, self._end_of_turn)
        if beginning is not None:
            pieces = pieces[next(i for i, piece in enumerate(pieces) if piece is own[0]) :]
        if continued:
            pieces.append(converted[-1]["content"])
        ids, ends = self._encode(pieces, limit)
        # The parts of a beginning that is not rendered are unknown.
        parts = None if beginning is not None else parts_of(converted, pieces, ends)
        return RenderedPrompt(pieces, ids, parts)

    def _encode(self, pieces: Sequence[Piece], limit: int) -> tuple[list[int], list[int]]:
        """Return the token ids, and the number of them up to each control token, inclusive."""
        ids: list[int] = []
        ends: list[int] = []
        for segment in segments(pieces):
            if isinstance(segment, str):
                ids.extend(self._encode_text(segment, limit - len(ids)))
            elif isinstance(segment, OwnTokens):
                ids.extend(segment.ids)
            else:
                ids.append(segment.id)
                ends.append(len(ids))
            if len(ids) > limit:
                raise TokenLimitError
        return ids, ends

    def _encode_text(self, text: str, limit: int) -> "array[int]":
        ids = self._cache.get(text)
        if ids is None:
            ids = self.tokenizer.encode_text(text, limit=limit)
            self._cache.put(text, ids)
        return ids


def load_chat(
    model_dir: Path | str, *, segment_cache_bytes: int = DEFAULT_SEGMENT_CACHE_BYTES
) -> ChatRenderer:
    """Load tokenizer.json, chat template and generation_config.json from a Hugging Face model folder.

    Raises `ModelFilesError` if files are missing or if safe rendering would differ from plain rendering.
    """
    folder = Path(model_dir)
    if not folder.is_dir():
        raise ModelFilesError(f"the model folder {str(folder)!r} does not exist or is not a folder")
    tokenizer, full = load_tokenizer(folder)
    template = load_template(folder, tokenizer.control_tokens)
    renderer = ChatRenderer(
        template,
        tokenizer,
        sampling_defaults=_sampling_defaults(folder),
        segment_cache_bytes=segment_cache_bytes,
        files=_digest_of_files(folder),
    )
    _check_exact(renderer, full, folder)
    return renderer


def _digest_of_files(folder: Path) -> str:
    digest = sha256()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        path = folder / name
        digest.update(sha256(path.read_bytes() if path.exists() else b"").digest())
    return digest.hexdigest()


def _sampling_defaults(folder: Path) -> dict[str, float]:
    path = folder / "generation_config.json"
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFilesError(f"cannot read {path}: {error}") from error
    return {name: config[name] for name in _SAMPLING_DEFAULTS if isinstance(config.get(name), int | float)}


_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"text": {"type": "string"}}},
    },
}
_PROBE_CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "probe", "arguments": '{"text": "x y"}'},
}
_PROBES: tuple[tuple[list[dict[str, Any]], list[dict[str, Any]]], ...] = (
    ([{"role": "user", "content": " Hello,  world\n"}], []),
    (
        [
            {"role": "system", "content": "Be brief. "},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello! "},
            {"role": "user", "content": "\nBye"},
        ],
        [],
    ),
    (
        [
            {"role": "user", "content": "Call it."},
            {"role": "assistant", "content": "Well. ", "tool_calls": [_PROBE_CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": " done "},
        ],
        [_PROBE_TOOL],
    ),
)


def _check_exact(renderer: ChatRenderer, full: Tokenizer, folder: Path) -> None:
    """Compare with the checkpoint's own tokenizer on conversations that contain no control token's text."""
    for number, (messages, tools) in enumerate(_PROBES):
        try:
            prompt = renderer.render(messages, tools=tools)
        except InvalidRequestError as error:
            if number == 0:
                raise ModelFilesError(
                    f"the chat template in {folder} fails on a single user message: {error}"
                ) from error
            continue  # A template may refuse tools or system messages.
        expected = full.encode(prompt.text, add_special_tokens=False).ids
        if prompt.input_ids != expected:
            place = next(
                (
                    i
                    for i, (got, want) in enumerate(zip(prompt.input_ids, expected, strict=False))
                    if got != want
                ),
                min(len(prompt.input_ids), len(expected)),
            )
            raise ModelFilesError(
                f"safe rendering with the files in {folder} differs from the tokenizer's own at token {place}"
                f" of probe {number}: the template writes control tokens that do not stand in its source as a"
                " whole, or the tokenizer treats the first piece of text differently. Serval cannot tell such"
                " control tokens from user text"
            )
