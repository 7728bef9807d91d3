"""Size of what a decoded request keeps of its body: images and unknown fields are not decoded."""

import msgspec

from serval.wire.chat_request import ChatRequest

_encode = msgspec.json.Encoder().encode


def kept_bytes(request: ChatRequest) -> int:
    """Return the size of messages, tools and response format as JSON, in bytes; a millisecond a megabyte."""
    # Message by message: other threads can run in between, and the copies are small.
    messages = sum(len(_encode(message)) for message in request.messages)
    return messages + len(_encode((request.tools, request.response_format)))
