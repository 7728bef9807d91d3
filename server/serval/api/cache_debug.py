"""Why the prefix cache missed: where a prompt leaves the caller's most similar recent one, as a header."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
from starlette.types import Scope

from serval.api.context import ApiContext
from serval.api.generation import OnDelta
from serval.api.http import header, identity_of
from serval.chat.prompt_history import PromptHistory
from serval.engine.protocol import GenerationDelta
from serval.wire.decode import decode_json
from serval.wire.prompt_texts import prompt_texts, text_at

# Asks for the comparison: true for any value but these.
REQUEST_HEADER: Final = b"x-serval-cache-debug"
_NO: Final = (None, "", "0", "false")
# Path and character at which the prompt leaves the other, or `prompt` and the character of that; `end` if one
# continues the other; `none` without another.
ANSWER_HEADER: Final = "x-serval-cache-left"
_LONGEST_PATH: Final = 1024

_decoder: msgspec.json.Decoder[dict[str, Any]] = msgspec.json.Decoder(dict[str, Any])
# Keys may be any text, but a header holds printable ASCII.
_NOT_IN_HEADER: Final = re.compile(r"[^ -~]")


class CacheDebug:
    """The comparison of one request's prompt, and the text that later ones are compared with."""

    def __init__(self, history: PromptHistory, key: str) -> None:
        self._history = history
        self._key = key
        self._body: dict[str, Any] = {}
        self._texts: list[str] = []
        self.headers: Mapping[str, str] = {}

    def take_body(self, body: bytes) -> None:
        """Keep the body, a JSON object, to name places in it. Raises `InvalidRequestError`."""
        self._body = decode_json(_decoder, body)

    def compare(self, prompt: str) -> None:
        """Find where the prompt leaves the most similar one, for `headers`."""
        similar = self._history.most_similar(self._key, prompt)
        self.headers = {ANSWER_HEADER: "none" if similar is None else self._left(prompt, *similar)}
        self._body = {}
        self._texts.append(prompt)

    def _left(self, prompt: str, other: str, length: int) -> str:
        if length in (len(other), len(prompt)):
            return "end"
        found = None
        with suppress(RecursionError):
            found = text_at(prompt, length, prompt_texts(self._body))
        # A stored conversation is not in the body.
        path, character = found or ("prompt", length)
        return f"{_NOT_IN_HEADER.sub('?', path[:_LONGEST_PATH])} {character}"

    def noting(self, on_delta: OnDelta) -> OnDelta:
        """Return `on_delta` that also notes the first choice's text, which the next prompt should repeat."""

        def noting(choice: int, delta: GenerationDelta) -> bool:
            if choice == 0:
                self._texts.append(delta.text)
            return on_delta(choice, delta)

        return noting

    def finish(self) -> None:
        """Hold the prompt and its answer for the next comparison."""
        self._history.add(self._key, "".join(self._texts))


def cache_debug(context: ApiContext, scope: Scope) -> CacheDebug | None:
    """Return the comparison that the request asks for, or None."""
    if header(scope, REQUEST_HEADER) in _NO:
        return None
    return CacheDebug(context.prompts, identity_of(scope).subject)
