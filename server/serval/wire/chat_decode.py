"""From the body of `POST /v1/chat/completions` to a checked request in today's form."""

import msgspec

from serval.wire.chat_request import ChatRequest, check_chat_request
from serval.wire.decode import decode_json
from serval.wire.legacy_functions import with_tools


class _StrictChatRequest(ChatRequest, forbid_unknown_fields=True):
    """The same, for servers that refuse what they do not know."""


_decoder = msgspec.json.Decoder(ChatRequest)
_strict_decoder: "msgspec.json.Decoder[ChatRequest]" = msgspec.json.Decoder(_StrictChatRequest)


def decode_chat_request(body: bytes, *, max_choices: int, strict: bool) -> ChatRequest:
    """Decode and check a request body; `strict` refuses top-level fields that are not known.

    Raises `InvalidRequestError` with `param` naming the field at fault.
    """
    request = with_tools(decode_json(_strict_decoder if strict else _decoder, body))
    check_chat_request(request, max_choices=max_choices)
    return request
