"""Routes that read and decode the JSON body within limits before FastAPI validates it."""

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope

from serval.api.context import ApiContext
from serval.api.http import identity_of, read_json_body
from serval.api.preparation import prepared
from serval.wire.body_size import check_body_size
from serval.wire.decode import decode_json
from serval.wire.struct_field import StructField

# JSON as in RFC 8259: no NaN, no encoding but UTF-8, and a limit on nesting.
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
        model = self.body_field.field_info.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_struct_of(model))

        def content_of(body: bytes) -> dict[str, Any]:
            return _decode(body, decoder, model) if body or required else {}

        async def read_and_handle(request: Request) -> Response:
            return await self.read_and_handle(request, content_of, handle)

        return read_and_handle

    async def read_and_handle(
        self,
        request: Request,
        content_of: Callable[[bytes], dict[str, Any]],
        handle: Callable[[Request], Coroutine[Any, Any, Response]],
    ) -> Response:
        """Read the body, decode it with `content_of`, and let `handle` answer."""
        limit: int = request.app.state.max_body_bytes
        body = await read_json_body(request.scope, request.receive, max_bytes=limit)
        return await handle(JsonRequest(request.scope, request.receive, body=body, content=content_of(body)))


class HeldJsonRoute(JsonRoute):
    """Route for bodies as large as those of chats: counted while they are held, and decoded in their turn."""

    async def read_and_handle(
        self,
        request: Request,
        content_of: Callable[[bytes], dict[str, Any]],
        handle: Callable[[Request], Coroutine[Any, Any, Response]],
    ) -> Response:
        """See `JsonRoute`. Also raises the errors of `prepared`."""
        context: ApiContext = request.app.state.context
        scope, receive = request.scope, request.receive
        with context.bodies.body(identity_of(scope).subject) as held:
            body, content = await prepared(
                context, scope, receive, held, lambda body: (body, content_of(body))
            )
            return await handle(JsonRequest(scope, receive, body=body, content=content))


def _struct_of(model: type[BaseModel]) -> type[msgspec.Struct]:
    """Return a struct with the fields of `model`, undecoded; other fields are skipped or refused."""
    return msgspec.defstruct(
        model.__name__,
        [(name, msgspec.Raw, msgspec.UNSET) for name in model.model_fields],
        forbid_unknown_fields=model.model_config.get("extra") == "forbid",
    )


def _decode(body: bytes, decoder: "msgspec.json.Decoder[Any]", model: type[BaseModel]) -> dict[str, Any]:
    check_body_size(body)
    given = decode_json(decoder, body)
    # Field by field, so that errors name the field. A `StructField` decodes its value itself.
    content: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        value = getattr(given, name)
        if value is msgspec.UNSET:
            continue
        keep_raw = any(isinstance(annotation, StructField) for annotation in field.metadata)
        content[name] = value if keep_raw else decode_json(_value_decoder, value, below=name)
    return content
