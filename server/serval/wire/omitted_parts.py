"""Parts of messages that are not text, such as images: the model reads text only.

Agents put an image into the history after reading one, and send it again with every later request. To refuse
it would end their sessions for good, so a short text can take its place. The part itself is never decoded:
`ContentPart` has no field for it.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

from serval.wire.chat_request import ContentPart, Message

# Which of these parts are refused: all, those of the newest user message, or none. Others are omitted.
NonTextParts = Literal["refuse", "refuse_new", "omit"]

# Types of parts in Chat Completions, Responses and Messages, and the word for each in the text.
_KINDS: Final[Mapping[str, str]] = {
    "image_url": "image",
    "input_image": "image",
    "image": "image",
    "input_audio": "audio",
    "audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
    "video": "video",
    "file": "file",
    "input_file": "file",
    "document": "document",
}


def omitted_text(part_type: str) -> str | None:
    """Return the text in place of a part of this type; None if parts of the type are not known."""
    kind = _KINDS.get(part_type)
    return None if kind is None else f"[{kind} omitted: this model reads text only]"


def omit_parts(messages: Sequence[Message], policy: NonTextParts) -> None:
    """Replace the parts that are not text, in place, as `policy` allows; the checks refuse what is left.

    Parts of unknown types are never replaced.
    """
    if policy == "refuse":
        return
    end = None
    for place, message in enumerate(messages):
        content = message.content
        if content is None or isinstance(content, str):
            continue
        if end is None:
            end = len(messages) if policy == "omit" else _begin_of_new(messages)
        if place >= end:
            return
        for index, part in enumerate(content):
            text = omitted_text(part.type)
            if text is not None:
                content[index] = ContentPart(type="text", text=text)


def _begin_of_new(messages: Sequence[Message]) -> int:
    """Return the index of the first message that no turn of the model has answered.

    A user message behind tool results counts as theirs: clients put the images there that tools returned,
    because Chat Completions allows only text in the results.
    """
    # The last message may be the beginning of the answer.
    end = len(messages) - 1 if messages and messages[-1].role == "assistant" else len(messages)
    for index in range(end - 1, -1, -1):
        if messages[index].role == "tool":
            return len(messages)
        if messages[index].role == "assistant":
            return index + 1
    return 0
