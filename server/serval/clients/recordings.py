"""Recorded requests of real clients, from `recordings/`.

Each file is one client's, as JSON Lines: its name, then requests, each after the list of tools that it names.
The clients' own texts were replaced by `<N characters>`; as many characters of words are filled in.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

_FOLDER: Final = Path(__file__).parent / "recordings"
_PLACEHOLDER: Final = re.compile(r"<(\d+) characters>")
_WORDS: Final = "the server keeps what a client wrote and reads it again on the next turn of the same task; "

# `either`: an answer, or an error that says why there is none.
Expected = Literal["answer", "refusal", "either"]
Api = Literal["chat", "responses", "messages", "count_tokens"]
_APIS: Final[Mapping[str, Api]] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "count_tokens",
}


@dataclass(frozen=True)
class Recording:
    """A request of `client` (its name and version). `path` begins with `/v1` and may have a query."""

    client: str
    name: str
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    expected: Expected

    @property
    def api(self) -> Api:
        """The API that the request is for."""
        return _APIS[self.path.partition("?")[0]]

    @property
    def streamed(self) -> bool:
        """True if the client asks for a stream."""
        return bool(self.body.get("stream"))


def known_clients() -> list[str]:
    """Return the short names of all recorded clients."""
    return sorted(path.stem for path in _FOLDER.glob("*.jsonl"))


def recordings_of(client: str) -> list[Recording]:
    """Return the requests of one of `known_clients`, in the order of their recording."""
    return list(_read((_FOLDER / f"{client}.jsonl").read_text(encoding="utf-8")))


def _read(text: str) -> Iterator[Recording]:
    head, *lines = map(json.loads, text.splitlines())
    tools = {line["tools"]: line["list"] for line in lines if "tools" in line}
    for line in lines:
        if "tools" in line:
            continue
        body = line["body"]
        if isinstance(body.get("tools"), str):
            body = body | {"tools": tools[body["tools"]]}
        yield Recording(
            client=head["client"],
            name=line["name"],
            path=line["path"],
            headers=_filled(line["headers"]),
            body=_filled(body),
            expected=line.get("expects", "answer"),
        )


def _filled(value: Any) -> Any:
    """Return `value` with text in place of all placeholders in it."""
    if isinstance(value, str):
        return _PLACEHOLDER.sub(lambda found: filler(int(found[1])), value)
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item) for item in value]
    return value


def filler(length: int) -> str:
    """Return `length` characters of plain words."""
    return (_WORDS * (length // len(_WORDS) + 1))[:length]
