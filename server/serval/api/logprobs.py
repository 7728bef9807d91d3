"""Log-probabilities of answers in OpenAI's formats.

A token that holds a part of a character has no text of its own. Like OpenAI, its bytes are written in its
place, `bytes:\\xe4\\xbd`, so that no two tokens have the same name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from serval.chat.token_bytes import TokenBytes
from serval.engine.protocol import GenerationDelta, TokenLogprob


class NamedTokens:
    """Gives the tokens of an answer their names and bytes."""

    def __init__(self, tokens: TokenBytes, *, skip_special: bool) -> None:
        """`skip_special`: special control tokens add nothing to the text."""
        self._tokens = tokens
        self._skip_special = skip_special

    def of(self, delta: GenerationDelta) -> list[TokenLogprob]:
        """Return the delta's log-probabilities, without those of tokens that overlap its stop string."""
        named = self.named(delta.logprobs)
        return named if delta.stop_string is None else _before_stop(named, delta.stop_string.encode())

    def named(self, logprobs: Sequence[TokenLogprob]) -> list[TokenLogprob]:
        """Return log-probabilities with names and bytes."""
        return [
            replace(self._named(logprob), top=tuple(self._named(top) for top in logprob.top))
            for logprob in logprobs
        ]

    def _named(self, logprob: TokenLogprob) -> TokenLogprob:
        if self._skip_special and self._tokens.is_special(logprob.token_id):
            return replace(logprob, data=b"")
        if "\ufffd" not in logprob.text:
            return replace(logprob, data=logprob.text.encode())
        data = self._tokens.of(logprob.token_id)
        return logprob if data is None else replace(logprob, text=_name(data), data=data)


def _name(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _before_stop(logprobs: list[TokenLogprob], stop: bytes) -> list[TokenLogprob]:
    """Drop the tokens that overlap the stop string, as they are not entirely part of the text.

    The engine holds back text that may become a stop string, so all of it is in the last delta.
    """
    tail = b""
    for place in reversed(range(len(logprobs))):
        tail = (logprobs[place].data or b"") + tail
        if stop in tail:
            return logprobs[:place]
    return logprobs


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> list[Mapping[str, Any]]:
    """Return log-probabilities in the form of chat completions."""
    return [
        {**_chat_logprob(logprob), "top_logprobs": [_chat_logprob(top) for top in logprob.top]}
        for logprob in logprobs
    ]


def _chat_logprob(logprob: TokenLogprob) -> dict[str, Any]:
    return {
        "token": logprob.text,
        "logprob": logprob.logprob,
        "bytes": None if logprob.data is None else list(logprob.data),
    }
