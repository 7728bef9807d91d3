"""Texts of a request's body that a prompt is made of, with their paths, and the one at a place of the prompt.

The bodies are those of Chat Completions, Responses and Messages, as decoded JSON that has not been checked.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple


class PromptText(NamedTuple):
    """A text of a body, and its path, such as `messages[2].content[0].text`."""

    path: str
    text: str
    # A key or a value of JSON, which follows the one before closely.
    in_json: bool = False


# Characters of a prompt between two of these texts: markers, labels, and the instructions on calls.
_LONGEST_GAP: Final = 2048
_LONGEST_GAP_IN_JSON: Final = 128
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_JSON_CHARACTER: Final = re.compile(r"\\u[0-9a-fA-F]{4}|\\.|[^\\]", re.DOTALL)


def prompt_texts(body: Mapping[str, Any]) -> Iterator[PromptText]:
    """Yield the texts in the order of a prompt: tools, system text, messages. Other fields are left out."""
    for name in ("tools", "functions"):
        yield from _tools(body.get(name), name)
    for name in ("system", "instructions"):
        yield from _content(body.get(name), name)
    for name in ("messages", "input"):
        yield from _content(body.get(name), name)


def text_at(prompt: str, place: int, texts: Iterable[PromptText]) -> tuple[str, int] | None:
    """Return the path of the text at `place`, or of the next one, and the character of that text.

    `texts` are those of `prompt_texts`, in the order in which the prompt has them; one not there in its turn
    is passed over. None if no text follows. Raises `RecursionError` for JSON of great depth.
    """
    begin = 0
    for path, text, in_json in texts:
        found = _find(prompt, text, begin, _LONGEST_GAP_IN_JSON if in_json else _LONGEST_GAP)
        if found is None:
            continue
        start, written = found
        begin = start + len(written)
        if place < begin:
            before = written[: max(0, place - start)]
            character = len(before) if written == text else len(_JSON_CHARACTER.findall(before))
            return path, min(character, len(text))
    return None


def _find(prompt: str, text: str, begin: int, gap: int) -> tuple[int, str] | None:
    """Return where the prompt has the text, within `gap` from `begin`, and how: as it is, or as in JSON."""
    for written in dict.fromkeys((text, json.dumps(text, ensure_ascii=False)[1:-1], text.strip())):
        end = begin + len(written) + gap
        start = prompt.find(written, begin, end) if written else -1
        # The words of a short text may be parts of longer ones.
        while start >= 0 and not _stands_alone(prompt, start, start + len(written)):
            start = prompt.find(written, start + 1, end)
        if start >= 0:
            return start, written
    return None


def _stands_alone(prompt: str, start: int, end: int) -> bool:
    def is_word(place: int) -> bool:
        return 0 <= place < len(prompt) and (prompt[place].isalnum() or prompt[place] == "_")

    return not (is_word(start) and is_word(start - 1)) and not (is_word(end - 1) and is_word(end))


def _tools(tools: Any, path: str) -> Iterator[PromptText]:
    for index, tool in _items(tools):
        if tool.get("defer_loading"):
            continue  # declared in the conversation, if at all
        below = f"{path}[{index}]"
        if isinstance(tool.get("tools"), list):
            yield from _tools(tool["tools"], f"{below}.tools")
            continue
        for form in ("function", "custom"):
            if isinstance(tool.get(form), Mapping):
                tool, below = tool[form], f"{below}.{form}"  # noqa: PLW2901  # the part that describes it
        for name in ("name", "description"):
            yield from _text(tool.get(name), f"{below}.{name}")
        for name in ("parameters", "input_schema"):
            if tool.get(name) is not None:
                yield from _json(tool[name], f"{below}.{name}")


def _content(content: Any, path: str) -> Iterator[PromptText]:
    """Yield the texts of a message's content, of a list of messages, or of items."""
    yield from _text(content, path)
    for index, part in _items(content):
        below = f"{path}[{index}]"
        for name in ("reasoning_content", "reasoning", "thinking", "text", "refusal"):
            yield from _text(part.get(name), f"{below}.{name}")
        for name in ("content", "output"):
            yield from _content(part.get(name), f"{below}.{name}")
        yield from _call(part, below)
        if isinstance(part.get("function_call"), Mapping):
            yield from _call(part["function_call"], f"{below}.function_call")
        for place, call in _items(part.get("tool_calls")):
            if isinstance(call.get("function"), Mapping):
                yield from _call(call["function"], f"{below}.tool_calls[{place}].function")


def _call(call: Mapping[str, Any], path: str) -> Iterator[PromptText]:
    """Yield the texts of a call. A mapping without arguments is none: its name is a user's."""
    for name in ("arguments", "input"):
        arguments = call.get(name)
        if arguments is None:
            continue
        yield from _text(call.get("name"), f"{path}.name")
        if isinstance(arguments, str):
            with suppress(ValueError):
                arguments = json.loads(arguments)
        yield from _json(arguments, f"{path}.{name}")


def _json(value: Any, path: str) -> Iterator[PromptText]:
    """Yield keys and values of JSON that the prompt has as it is."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            inside = f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{json.dumps(key)}]"
            yield PromptText(inside, key, in_json=True)
            yield from _json(below, inside)
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _json(below, f"{path}[{index}]")
    else:
        yield PromptText(path, value if isinstance(value, str) else json.dumps(value), in_json=True)


def _text(value: Any, path: str) -> Iterator[PromptText]:
    if isinstance(value, str):
        yield PromptText(path, value)


def _items(value: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if isinstance(value, list):
        yield from ((index, item) for index, item in enumerate(value) if isinstance(item, Mapping))
