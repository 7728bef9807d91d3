"""The admin API: keys are made, listed, changed, rotated and revoked. It has a port of its own.

POST   /admin/keys                  {"name", "scopes", "models", "expires_in_s", "limits"}
GET    /admin/keys
PATCH  /admin/keys/{id}             {"limits"}
POST   /admin/keys/{id}/rotate      {"grace_s"}
DELETE /admin/keys/{id}
"""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from serval.api.edge import ADMIN_KEY, ADMIN_KEYS, HEALTHZ, RequestEdge
from serval.api.health import Healthz
from serval.api.http import read_json_body, send_json
from serval.api.routing import ROUTING_ERRORS
from serval.auth.authenticator import Authenticator
from serval.auth.directory import KeyDirectory
from serval.caller.identity import ADMIN, INFERENCE, SCOPES
from serval.caller.limits import LIMIT_NAMES, MAX_LIMIT, KeyLimits, limit_of
from serval.errors import InvalidRequestError, NotFoundError, UnknownKeyError
from serval.store.key_store import KeyRecord
from serval.telemetry.metrics import Metrics
from serval.wire.decode import decode_json

T = TypeVar("T")

_MAX_BODY_BYTES = 1 << 16
_Name = Annotated[str, Meta(min_length=1, max_length=200)]
# No white space: the lists are stored as words.
_Word = Annotated[str, Meta(pattern=r"^\S{1,200}\Z")]
_Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT)] | Literal["unlimited", "default"]
_Seconds = Annotated[int, Meta(ge=0, le=10**10)]


class LimitChanges(Struct, forbid_unknown_fields=True):
    """Limits to be set; what is left out stays as it is, or the default."""

    requests_per_minute: _Limit | UnsetType = UNSET
    tokens_per_minute: _Limit | UnsetType = UNSET
    concurrent_requests: _Limit | UnsetType = UNSET
    tokens_per_day: _Limit | UnsetType = UNSET

    def given(self) -> dict[str, int | None]:
        """Those that are to be set, as they are stored."""
        given = {name: getattr(self, name) for name in LIMIT_NAMES}
        return {name: limit_of(value) for name, value in given.items() if value is not UNSET}


class UpdateKey(Struct, forbid_unknown_fields=True):
    """What is to be changed of a key."""

    limits: LimitChanges


class CreateKey(Struct, forbid_unknown_fields=True):
    """A key to be made. `models` null: all; `expires_in_s` null: never."""

    name: _Name
    scopes: Annotated[list[_Word], Meta(min_length=1)] = field(default_factory=lambda: [INFERENCE])
    models: list[_Word] | None = None
    expires_in_s: _Seconds | None = None
    limits: LimitChanges = field(default_factory=LimitChanges)


class RotateKey(Struct, forbid_unknown_fields=True):
    """How long the old key is still accepted."""

    grace_s: _Seconds = 0


_create_decoder = msgspec.json.Decoder(CreateKey)
_update_decoder = msgspec.json.Decoder(UpdateKey)
_rotate_decoder = msgspec.json.Decoder(RotateKey)


def check_scopes(scopes: list[str]) -> None:
    """Raise `InvalidRequestError` for a scope there is not."""
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidRequestError(
                f"There is no scope {scope!r}; choose from {', '.join(SCOPES)}.", param="scopes"
            )


class _Keys:
    """The endpoints over one directory. Each changes the database in a thread, then this worker's view."""

    def __init__(self, directory: KeyDirectory) -> None:
        self._directory = directory

    async def create(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json_body(scope, receive, max_bytes=_MAX_BODY_BYTES)
        asked = decode_json(_create_decoder, body)
        check_scopes(asked.scopes)
        record, key = await self._changed(
            lambda: self._directory.store.create(
                name=asked.name,
                scopes=asked.scopes,
                models=asked.models,
                expires_in_s=asked.expires_in_s,
                limits=KeyLimits(**asked.limits.given()),
            )
        )
        await _send_object(send, _with_key(record, key), status=201)

    async def list(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, keys = await asyncio.to_thread(self._directory.store.load)
        await _send_object(send, {"object": "list", "data": [key.as_object() for key in keys]})

    async def update(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json_body(scope, receive, max_bytes=_MAX_BODY_BYTES)
        changes = decode_json(_update_decoder, body).limits.given()
        key_id = scope["path_params"]["key_id"]
        record = await self._changed(lambda: self._directory.store.update_limits(key_id, changes))
        await _send_object(send, record.as_object())

    async def rotate(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_json_body(scope, receive, max_bytes=_MAX_BODY_BYTES)
        asked = decode_json(_rotate_decoder, body or b"{}")
        key_id = scope["path_params"]["key_id"]
        record, key = await self._changed(lambda: self._directory.store.rotate(key_id, grace_s=asked.grace_s))
        await _send_object(send, _with_key(record, key), status=201)

    async def revoke(self, scope: Scope, receive: Receive, send: Send) -> None:
        key_id = scope["path_params"]["key_id"]
        record = await self._changed(lambda: self._directory.store.revoke(key_id))
        await _send_object(send, record.as_object())

    async def _changed(self, change: Callable[[], T]) -> T:
        def work() -> T:
            result = change()
            self._directory.refresh()
            return result

        try:
            return await asyncio.to_thread(work)
        except UnknownKeyError as error:
            raise NotFoundError(str(error), param="key_id", code="key_not_found") from None


def _with_key(record: KeyRecord, key: str) -> dict[str, Any]:
    return {**record.as_object(), "key": key}


async def _send_object(send: Send, content: dict[str, Any], *, status: int = 200) -> None:
    headers = {"cache-control": "no-store"}
    await send_json(send, msgspec.json.encode(content), status=status, headers=headers)


def create_admin_app(directory: KeyDirectory, *, authenticator: Authenticator, metrics: Metrics) -> ASGIApp:
    """The ASGI application of the admin API. Only keys with the scope `admin` are let in."""
    keys = _Keys(directory)
    router = Router(
        [
            Route(ADMIN_KEYS, _ByMethod({"POST": keys.create, "GET": keys.list}), methods=["GET", "POST"]),
            Route(ADMIN_KEY + "/rotate", _ByMethod({"POST": keys.rotate}), methods=["POST"]),
            Route(
                ADMIN_KEY,
                _ByMethod({"PATCH": keys.update, "DELETE": keys.revoke}),
                methods=["PATCH", "DELETE"],
            ),
            Route(HEALTHZ, Healthz(), methods=["GET"]),
        ],
        redirect_slashes=False,
    )
    handled = ExceptionMiddleware(router, handlers=ROUTING_ERRORS)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette's router raises its errors only where it sees an application; else it answers in text.
        scope["app"] = app
        await handled(scope, receive, send)

    return RequestEdge(app, hot={}, authenticator=authenticator, needed_scope=ADMIN, metrics=metrics)


class _ByMethod:
    """An ASGI application that answers each method with its own."""

    def __init__(self, methods: dict[str, ASGIApp]) -> None:
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._methods[method](scope, receive, send)
