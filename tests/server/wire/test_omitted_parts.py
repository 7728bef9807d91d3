"""Parts of messages that are not text: where they are left out, and where they are left to be refused."""

import tracemalloc
from typing import Any

import msgspec
import pytest

from serval.errors import InvalidRequestError
from serval.wire.chat_decode import decode_chat_request
from serval.wire.chat_request import ChatRequest
from serval.wire.omitted_parts import NonTextParts, omitted_text

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
OMITTED = {"type": "text", "text": "[image omitted: this model reads text only]"}
LOOK = {"type": "text", "text": "Look."}
USER = {"role": "user", "content": "Read a.png."}
SHOWN = {"role": "user", "content": [LOOK, IMAGE]}
CALL = {"id": "c", "type": "function", "function": {"name": "read", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWERED = {"role": "assistant", "content": "I see."}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "An image follows."}
IMAGE_RESULT = {"role": "tool", "tool_call_id": "c", "content": [IMAGE]}


def decoded(messages: list[dict[str, Any]], policy: NonTextParts) -> ChatRequest:
    body = msgspec.json.encode({"model": "m", "messages": messages})
    return decode_chat_request(body, max_choices=1, strict=False, non_text_parts=policy)


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([USER, CALLED, IMAGE_RESULT], 2),
        ([USER, CALLED, IMAGE_RESULT, ANSWERED, USER], 2),
        ([USER, CALLED, RESULT, SHOWN], 3),
        ([USER, CALLED, RESULT, USER, SHOWN], 4),
        ([SHOWN, ANSWERED, USER], 0),
        ([SHOWN, CALLED, RESULT], 0),
        ([USER, {"role": "assistant", "content": [IMAGE]}, USER], 1),
    ],
    ids=[
        "tool result",
        "earlier tool result",
        "user message behind a tool result",
        "second user message behind a tool result",
        "earlier turn",
        "turn in which a tool was called since",
        "assistant message",
    ],
)
def test_omit_parts_replaces_an_image_of_the_history(messages: list[dict[str, Any]], place: int) -> None:
    parts = [OMITTED if part is IMAGE else part for part in messages[place]["content"]]
    expected = decoded(
        [*messages[:place], {**messages[place], "content": parts}, *messages[place + 1 :]], "refuse"
    )
    assert decoded(messages, "refuse_new") == decoded(messages, "omit") == expected
    with pytest.raises(InvalidRequestError):
        decoded(messages, "refuse")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([SHOWN], "messages[0].content[1].type"),
        ([USER, ANSWERED, SHOWN], "messages[2].content[1].type"),
        ([USER, ANSWERED, SHOWN, USER], "messages[2].content[1].type"),
        ([USER, CALLED, RESULT, ANSWERED, SHOWN], "messages[4].content[1].type"),
        ([SHOWN, ANSWERED], "messages[0].content[1].type"),
    ],
    ids=["first", "second turn", "two user messages", "turn after calls", "with the answer's beginning"],
)
def test_omit_parts_leaves_an_image_of_the_newest_message(messages: list[dict[str, Any]], param: str) -> None:
    with pytest.raises(InvalidRequestError, match="this model takes text only") as caught:
        decoded(messages, "refuse_new")
    assert caught.value.param == param
    texts = [
        part for m in decoded(messages, "omit").messages if isinstance(m.content, list) for part in m.content
    ]
    assert msgspec.to_builtins(texts) == [LOOK, OMITTED]


@pytest.mark.parametrize(
    ("part_type", "kind"),
    [
        ("image_url", "image"),
        ("input_image", "image"),
        ("image", "image"),
        ("input_audio", "audio"),
        ("video_url", "video"),
        ("file", "file"),
        ("input_file", "file"),
        ("document", "document"),
    ],
)
def test_omitted_text_names_the_kind_of_part(part_type: str, kind: str) -> None:
    assert omitted_text(part_type) == f"[{kind} omitted: this model reads text only]"


def test_omit_parts_leaves_unknown_types_to_be_refused() -> None:
    unknown = {"role": "tool", "tool_call_id": "c", "content": [{"type": "hologram", "text": "x"}]}
    with pytest.raises(InvalidRequestError, match="hologram"):
        decoded([USER, CALLED, unknown], "omit")


def test_decoding_keeps_nothing_of_an_omitted_image() -> None:
    url = "data:image/png;base64," + "A" * (8 << 20)
    image = {"type": "image_url", "image_url": {"url": url, "detail": "high"}}
    body = msgspec.json.encode(
        {"model": "m", "messages": [USER, CALLED, {**IMAGE_RESULT, "content": [image]}]}
    )
    tracemalloc.start()
    try:
        request = decode_chat_request(body, max_choices=1, strict=False, non_text_parts="refuse_new")
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(msgspec.json.encode(request)) < 2048
    assert kept < 1 << 16
    assert peak < 4 << 20  # the checks read the body in pieces
