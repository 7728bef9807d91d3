"""Outermost layer of every request: request id, authentication, errors, log line and metrics."""

import re
import secrets
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serval.api.endpoints import Endpoint, EndpointTable
from serval.api.http import (
    ClientGoneError,
    accepted_of,
    attach_identity,
    attach_record,
    header,
    send_error,
)
from serval.auth.authenticator import Authenticator
from serval.auth.keys import bearer_key
from serval.caller.identity import Identity
from serval.errors import ApiError, AuthenticationError, InternalError
from serval.telemetry.logs import log_request
from serval.telemetry.metrics import Metrics
from serval.telemetry.record import RequestRecord

if TYPE_CHECKING:
    from serval.telemetry.tracing import Tracing
    from serval.usage.recorder import UsageRecorder

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class RequestEdge:
    """ASGI middleware around a whole application.

    `hot` maps the paths of hot endpoints to their ASGI applications, which need no router.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hot: Mapping[str, ASGIApp],
        endpoints: EndpointTable,
        authenticator: Authenticator,
        metrics: Metrics,
        tracing: "Tracing | None" = None,
        usage: "UsageRecorder | None" = None,
    ) -> None:
        """Requests are traced only if `tracing` is given, and their usage is counted only if `usage` is."""
        self._app = app
        self._hot = hot
        self._endpoints = endpoints
        self._authenticator = authenticator
        self._metrics = metrics
        self._tracing = tracing
        self._usage = usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; pass other scopes on unchanged."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _without_trailing_slash(scope)
        endpoint = self._endpoints.find(scope["path"])
        record = _new_record(scope, endpoint)
        attach_record(scope, record)
        if self._tracing is None or endpoint.operation is None:
            await self._serve(endpoint, scope, receive, send, record)
        else:
            with self._tracing.span(endpoint.operation, record, traceparent=header(scope, b"traceparent")):
                await self._serve(endpoint, scope, receive, send, record)

    async def _serve(
        self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send, record: RequestRecord
    ) -> None:
        request_id = record.request_id.encode()
        # The endpoints whose requests the engine runs.
        usage = self._usage if endpoint.operation is not None else None
        id_headers = [(name, request_id) for name in endpoint.request_id_headers]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                took_ms = b"%d" % round(record.elapsed_s() * 1e3)
                message["headers"] = [
                    *message.get("headers", ()),
                    *id_headers,
                    (b"openai-processing-ms", took_ms),
                ]
            elif usage is not None and not message.get("more_body"):
                # Before the client has the whole answer.
                usage.count(record)
            await send(message)

        async def send_as_error(error: ApiError) -> None:
            error.request_id = record.request_id
            status = None if endpoint.error_status is None else endpoint.error_status(error)
            await send_error(send_with_id, error, as_object=endpoint.error_object, status=status)

        self._metrics.request_started()
        try:
            if endpoint.scope is not None:
                identity = await self._identify(scope)
                record.key_id, record.subject = identity.key_id, identity.subject
                identity.require_scope(endpoint.scope)
                attach_identity(scope, identity)
            app = self._hot[endpoint.path] if endpoint.hot and record.method == "POST" else self._app
            await app(scope, receive, send_with_id)
        except ClientGoneError:
            record.client_gone = True
        except ApiError as error:
            record.error_code = error.code
            if record.status:
                raise  # The response has begun; it cannot be replaced by an error.
            await send_as_error(error)
        except Exception:
            record.error_code = InternalError.default_code
            if not record.status:
                await send_as_error(
                    InternalError(
                        "The server had an internal error on this request. Quote the x-request-id when you"
                        " report it."
                    )
                )
            # The server logs the traceback.
            raise
        finally:
            if usage is not None:
                usage.count(record)
            self._metrics.request_over(record)
            log_request(record)

    async def _identify(self, scope: Scope) -> Identity:
        accepted = accepted_of(scope)
        if accepted is not None:
            return self._authenticator.again(accepted)
        return await self._authenticator.identify(authorization_of(scope))


def authorization_of(scope: Scope) -> str | None:
    """Return the Authorization header; `x-api-key`, which Anthropic's clients send, counts as a bearer.

    Raises `AuthenticationError` if both are sent and differ: they may have different rights.
    """
    authorization, key = header(scope, b"authorization"), header(scope, b"x-api-key")
    if not key:
        return authorization
    bearer = f"Bearer {key.strip()}"
    if authorization is not None and bearer_key(authorization) != bearer_key(bearer):
        raise AuthenticationError(
            "The headers Authorization and x-api-key hold different keys. Send one of them."
        )
    return bearer


def _without_trailing_slash(scope: Scope) -> Scope:
    path: str = scope["path"]
    if path == "/" or not path.endswith("/"):
        return scope
    changed: MutableMapping[str, Any] = dict(scope)
    changed["path"] = path.rstrip("/") or "/"
    return changed


def _new_record(scope: Scope, endpoint: Endpoint) -> RequestRecord:
    sent_id = header(scope, b"x-client-request-id")
    return RequestRecord(
        request_id=f"req_{secrets.token_hex(16)}",
        method=scope["method"] if scope["method"] in _METHODS else "other",
        route=endpoint.label,
        client_request_id=sent_id if sent_id and _CLIENT_REQUEST_ID.fullmatch(sent_id) else None,
    )
