"""The outermost layer of every request: its id, its key, its errors, its log line and its metrics."""

import re
import secrets
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serval.api.http import ClientGoneError, attach_identity, attach_record, header, send_error
from serval.auth.authenticator import Authenticator
from serval.errors import ApiError, InternalError
from serval.telemetry.logs import log_request
from serval.telemetry.metrics import Metrics
from serval.telemetry.record import RequestRecord

if TYPE_CHECKING:
    from serval.telemetry.tracing import Tracing

CHAT_COMPLETIONS = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
TOKENIZE = "/tokenize"
DETOKENIZE = "/detokenize"
MODELS = "/v1/models"
MODEL = "/v1/models/{model_id}"
HEALTHZ = "/healthz"
READYZ = "/readyz"
METRICS = "/metrics"
OPENAPI = "/openapi.json"
ADMIN_KEYS = "/admin/keys"
ADMIN_KEY = "/admin/keys/{key_id}"

# What may be asked without a key. Everything else, also what does not exist, needs one.
PUBLIC = frozenset({HEALTHZ, READYZ, METRICS})
_ROUTES = PUBLIC | {ADMIN_KEYS, CHAT_COMPLETIONS, COMPLETIONS, TOKENIZE, DETOKENIZE, MODELS, OPENAPI}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CLIENT_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


class RequestEdge:
    """ASGI application around the whole application.

    `hot` are endpoints by path whose POST requests need no router and no layer in between.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hot: Mapping[str, ASGIApp],
        authenticator: Authenticator,
        needed_scope: str,
        metrics: Metrics,
        tracing: "Tracing | None" = None,
    ) -> None:
        """`needed_scope` is what a key must have to be let in. Without `tracing` there are no traces."""
        self._app = app
        self._hot = hot
        self._authenticator = authenticator
        self._needed_scope = needed_scope
        self._metrics = metrics
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Lifespan and other scopes pass through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = _without_trailing_slash(scope)
        record = _new_record(scope)
        attach_record(scope, record)
        if self._tracing is None:
            await self._serve(scope, receive, send, record)
        else:
            with self._tracing.span(record, traceparent=header(scope, b"traceparent")):
                await self._serve(scope, receive, send, record)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, record: RequestRecord) -> None:
        request_id_header = (b"x-request-id", record.request_id.encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                took_ms = b"%d" % round(record.elapsed_s() * 1e3)
                message["headers"] = [
                    *message.get("headers", ()),
                    request_id_header,
                    (b"openai-processing-ms", took_ms),
                ]
            await send(message)

        self._metrics.request_started()
        try:
            if record.route not in PUBLIC:
                identity = await self._authenticator.identify(header(scope, b"authorization"))
                record.key_id = identity.key_id
                identity.require_scope(self._needed_scope)
                attach_identity(scope, identity)
            endpoint = self._hot.get(record.route) if record.method == "POST" else None
            await (endpoint or self._app)(scope, receive, send_with_id)
        except ClientGoneError:
            record.client_gone = True
        except ApiError as error:
            record.error_code = error.code
            if record.status:
                raise  # A response has begun; it cannot become another one.
            await send_error(send_with_id, error)
        except Exception:
            record.error_code = InternalError.default_code
            if not record.status:
                await send_error(
                    send_with_id,
                    InternalError(
                        "The server had an internal error on this request. Quote the x-request-id when you"
                        " report it."
                    ),
                )
            # The server logs the traceback.
            raise
        finally:
            self._metrics.request_over(record)
            log_request(record)


def _without_trailing_slash(scope: Scope) -> Scope:
    path: str = scope["path"]
    if path == "/" or not path.endswith("/"):
        return scope
    changed: MutableMapping[str, Any] = dict(scope)
    changed["path"] = path.rstrip("/") or "/"
    return changed


def _new_record(scope: Scope) -> RequestRecord:
    path: str = scope["path"]
    if path in _ROUTES:
        route = path
    elif path.startswith(MODELS + "/"):
        route = MODEL
    elif path.startswith(ADMIN_KEYS + "/"):
        route = ADMIN_KEY
    else:
        route = "other"
    sent_id = header(scope, b"x-client-request-id")
    return RequestRecord(
        request_id=f"req_{secrets.token_hex(16)}",
        method=scope["method"] if scope["method"] in _METHODS else "other",
        route=route,
        client_request_id=sent_id if sent_id and _CLIENT_REQUEST_ID.fullmatch(sent_id) else None,
    )
