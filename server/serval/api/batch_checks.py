"""Checks of lines of batches by the endpoints' own decoders."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from starlette.types import Scope

from serval.api.chat import decode_chat
from serval.api.completions import decode_completion
from serval.api.context import ApiContext
from serval.api.endpoints import CHAT_COMPLETIONS, COMPLETIONS, RESPONSES
from serval.api.http import attach_identity, attach_record
from serval.api.in_process import request_scope
from serval.api.openai_responses import decode_responses
from serval.caller.identity import Identity
from serval.errors import InvalidRequestError
from serval.telemetry.record import RequestRecord
from serval.wire.decode import checked_utf8

_DECODERS: Final[Mapping[str, Callable[[ApiContext, Scope, bytes], Any]]] = {
    CHAT_COMPLETIONS.path: decode_chat,
    COMPLETIONS.path: decode_completion,
    RESPONSES.path: decode_responses,
}
BATCH_ENDPOINTS: Final = tuple(_DECODERS)


def body_check(context: ApiContext, identity: Identity, path: str) -> Callable[[bytes], None]:
    """Return the check of bodies of this caller's requests to the endpoint at `path`.

    It raises the `ApiError` with which the endpoint would refuse the request before rendering it, and one for
    a request to stream.
    """
    decode = _DECODERS[path]

    def check(body: bytes) -> None:
        record = RequestRecord(request_id="", method="POST", route=path)
        scope = request_scope(path)
        attach_record(scope, record)
        attach_identity(scope, identity)
        decode(context, scope, checked_utf8(body))
        if record.stream:
            raise InvalidRequestError(
                "A line of a batch cannot be streamed.", param="stream", code="unsupported_value"
            )

    return check
