"""Routes that read and decode the JSON body within limits before FastAPI validates it."""

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from serval.api.http import read_json_body
from serval.wire.decode import decode_json

# JSON as in RFC 8259: no NaN, no encoding but UTF-8, and a limit on nesting.
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_value_decoder = msgspec.json.Decoder()


class JsonRequest(Request):
    """Request whose body has been read and decoded."""

    def __init__(self, scope: Scope, receive: Receive, *, body: bytes, content: dict[str, Any]) -> None:
        super().__init__(scope, receive)
        self._bytes = body
        self._content = content

    async def body(self) -> bytes:
        return self._bytes

    async def json(self) -> Any:
        return self._content


class JsonRoute(APIRoute):
    """Route with a JSON body of at most `app.state.max_body_bytes` bytes."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler behind one that reads the body.

        The handler raises `InvalidRequestError`, `BodyTooLargeError` or `ClientGoneError`.
        """
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        required = self.body_field.field_info.is_required()

        async def read_and_handle(request: Request) -> Response:
            limit: int = request.app.state.max_body_bytes
            body = await read_json_body(request.scope, request.receive, max_bytes=limit)
            content = _decode(body) if body or required else {}
            return await handle(JsonRequest(request.scope, request.receive, body=body, content=content))

        return read_and_handle


def _decode(body: bytes) -> dict[str, Any]:
    # Field by field, because the decoder's errors do not name the keys of a dict.
    fields = decode_json(_fields_decoder, body)
    return {name: decode_json(_value_decoder, value, below=name[:200]) for name, value in fields.items()}
