"""A tokenizer that encodes text and control tokens separately.

A checkpoint's `tokenizer.json` turns the *text* of an added token (`<longcat_user>`) into that token's id,
wherever the text comes from. `encode_special_tokens` exempts only tokens flagged as special, and markers
often are not. So text is encoded by a second tokenizer, built from the same file without its control tokens:
no text can become one. Control tokens come only from the chat template (`serval.chat.template`), as ids.
"""

import json
import re
import secrets
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from tokenizers import Tokenizer

from serval.chat.long_text import WINDOW, TokenLimitError, can_be_cut, encode_long, longest_token
from serval.chat.token_bytes import TokenBytes
from serval.errors import InvalidRequestError, ModelFilesError

# Unicode White_Space, as stripped by the tokenizer's flags `lstrip` and `rstrip`.
_WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_LEADING_SPACE = re.compile(f"^[{_WHITE_SPACE}]+")
_TRAILING_SPACE = re.compile(f"[{_WHITE_SPACE}]+$")


@dataclass(frozen=True)
class ControlToken:
    """An added token of the checkpoint. With `lstrip` or `rstrip` it swallows whitespace on that side.

    Engines can leave `special` ones out of a text.
    """

    id: int
    content: str
    lstrip: bool = False
    rstrip: bool = False
    special: bool = False


@dataclass(frozen=True)
class OwnTokens:
    """Tokens that the model wrote itself; `content` is their text. They swallow no whitespace."""

    ids: "array[int]"
    tokenizer: "ControlSafeTokenizer"
    lstrip: ClassVar[bool] = False
    rstrip: ClassVar[bool] = False

    @property
    def content(self) -> str:
        return self.tokenizer.decode(self.ids)


# A piece of a rendered conversation.
Piece = str | ControlToken | OwnTokens


class ControlSafeTokenizer:
    """Encodes text so that the result never contains the id of a control token."""

    def __init__(self, plain: Tokenizer, control_tokens: Sequence[ControlToken]) -> None:
        self._plain = plain
        self.control_tokens = tuple(control_tokens)
        self.token_bytes = TokenBytes(plain, control_tokens)
        self._control_ids = frozenset(token.id for token in control_tokens)
        self._ids_of_controls = {token.content: token.id for token in control_tokens}
        self._control_texts = {token.id: token.content for token in control_tokens}
        # One more than the largest id.
        self.vocabulary_size = 1 + max([*plain.get_vocab().values(), *self._control_ids], default=-1)
        self._longest_token = longest_token(plain, without=self._control_ids)
        self._window = WINDOW if can_be_cut(plain) else sys.maxsize

    def control_id(self, text: str) -> int | None:
        """Return the id of the control token with this text; None if there is none."""
        return self._ids_of_controls.get(text)

    def longest_text(self, tokens: int) -> int:
        """Return the most characters that a text of `tokens` tokens can have."""
        return tokens * self._longest_token

    def encode_text(self, text: str, *, limit: int = sys.maxsize) -> "array[int]":
        """Encode any text. A text of more than `limit` tokens is not encoded to its end.

        Raises `TokenLimitError`, and `InvalidRequestError` if the text is not valid Unicode.
        """
        if not text:
            return array("I")
        if len(text) > self.longest_text(limit):
            raise TokenLimitError
        try:
            if len(text) > self._window:
                ids = encode_long(self._plain, text, limit=limit)
            else:
                encoding = self._plain.encode_batch_fast([text], add_special_tokens=False)[0]
                ids = array("I", encoding.ids)
        except (TypeError, UnicodeEncodeError):
            # Raised by the tokenizers library for a string that UTF-8 cannot encode.
            raise InvalidRequestError(
                "The conversation holds a lone UTF-16 surrogate, which is not text. Send valid Unicode.",
                param="messages",
            ) from None
        if not self._control_ids.isdisjoint(ids):
            raise AssertionError(
                "text was encoded into a control token; the text tokenizer must not know any"
            )
        if len(ids) > limit:
            raise TokenLimitError
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids below `vocabulary_size`; control tokens become their names."""
        texts: list[str] = []
        for is_control, stretch in groupby(ids, self._control_texts.__contains__):
            if is_control:
                texts += [self._control_texts[token_id] for token_id in stretch]
            else:
                texts.append(self._plain.decode(list(stretch), skip_special_tokens=False))
        return "".join(texts)


def segments(pieces: Iterable[Piece]) -> list[Piece]:
    """Join adjacent text and remove the whitespace that control tokens swallow.

    The result is cut where the full tokenizer would cut the same text: it splits at added tokens first, then
    encodes each piece of text on its own.
    """
    joined: list[Piece] = []
    text = ""
    strip_next = False
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        if strip_next:
            text = _LEADING_SPACE.sub("", text)
        if piece.lstrip:
            text = _TRAILING_SPACE.sub("", text)
        if text:
            joined.append(text)
        joined.append(piece)
        text, strip_next = "", piece.rstrip
    if strip_next:
        text = _LEADING_SPACE.sub("", text)
    if text:
        joined.append(text)
    return joined


def load_tokenizer(model_dir: Path) -> tuple[ControlSafeTokenizer, Tokenizer]:
    """Load the control-safe tokenizer of a model folder, and the checkpoint's own one to compare it with.

    Raises `ModelFilesError` if the files are missing or cannot be split into text and control tokens.
    """
    path = model_dir / "tokenizer.json"
    definition = _read_json(path)
    added = _added_tokens(definition, _read_json(model_dir / "tokenizer_config.json", optional=True))
    # In some tokenizers, runs of whitespace are added tokens. To the model they are ordinary text.
    control = [entry for entry in added if entry.get("special") or str(entry["content"]).strip()]
    kept = [entry for entry in added if entry not in control]
    full = _build(definition | {"added_tokens": added}, path)
    plain = _build(_without(definition, control, kept), path)
    for entry in kept:
        if plain.token_to_id(entry["content"]) != entry["id"]:
            raise ModelFilesError(
                f"{path}: the white space token {entry['content']!r} (id {entry['id']}) cannot be kept apart"
                " from the control tokens, because its id depends on theirs; give it its id in the model's"
                " vocabulary"
            )
    tokens = [
        ControlToken(
            id=int(entry["id"]),
            content=str(entry["content"]),
            lstrip=bool(entry.get("lstrip")),
            rstrip=bool(entry.get("rstrip")),
            special=bool(entry.get("special")),
        )
        for entry in control
    ]
    for token in tokens:
        if full.token_to_id(token.content) != token.id:
            raise ModelFilesError(
                f"{path}: {token.content!r} should have id {token.id}, but the tokenizer gives it"
                f" {full.token_to_id(token.content)!r}; tokenizer.json and tokenizer_config.json disagree"
            )
    safe = ControlSafeTokenizer(plain, tokens)
    for token in tokens:
        _check_unreachable(safe, token, path)
    return safe, full


def _added_tokens(definition: dict[str, Any], config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the added tokens of tokenizer.json and, as transformers does, tokenizer_config.json, by id."""
    by_content = {entry["content"]: entry for entry in definition.get("added_tokens") or []}
    for token_id, entry in (config.get("added_tokens_decoder") or {}).items():
        by_content.setdefault(entry["content"], entry | {"id": int(token_id)})
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return sorted(
        (
            {name: entry.get(name, flags[name]) for name in flags} | {k: entry[k] for k in ("id", "content")}
            for entry in by_content.values()
        ),
        key=lambda entry: int(entry["id"]),
    )


def _without(
    definition: dict[str, Any], control: Sequence[dict[str, Any]], kept: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return a tokenizer definition whose only added tokens are `kept` and that cannot produce `control`."""
    model = dict(definition["model"])
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        # A BPE model with `ignore_merges` takes whole words from the vocabulary.
        nonce = secrets.token_hex(16)
        names = {entry["content"] for entry in control}
        model["vocab"] = {
            (f"{nonce}{token_id}" if text in names else text): token_id for text, token_id in vocab.items()
        }
    return definition | {"model": model, "added_tokens": list(kept), "post_processor": None}


def _build(definition: dict[str, Any], path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(json.dumps(definition, ensure_ascii=False))
    except Exception as error:
        raise ModelFilesError(
            f"{path} cannot be loaded with and without its control tokens: {error}"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _check_unreachable(tokenizer: ControlSafeTokenizer, token: ControlToken, path: Path) -> None:
    for text in (token.content, f" {token.content}", f"x{token.content}\n", token.content * 2):
        try:
            tokenizer.encode_text(text)
        except AssertionError as error:
            raise ModelFilesError(
                f"{path}: the text {token.content!r} still encodes to control token {token.id} after the"
                " added tokens were removed; this tokenizer cannot be used safely"
            ) from error


def _read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelFilesError(
            f"cannot read {path}: {error}. Is its folder a Hugging Face model folder?"
        ) from error
    if not isinstance(content, dict):
        raise ModelFilesError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content
