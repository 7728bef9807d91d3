"""Tables of the endpoints: path, methods, metrics label, scope and trace operation, each written once.

`RequestEdge` looks every request up in the table of its application; the routers take their paths from here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.routing import compile_path

from serval.caller.identity import ADMIN, INFERENCE
from serval.errors import ApiError, error_object
from serval.wire.messages import answer


@dataclass(frozen=True)
class Endpoint:
    """Path of an endpoint, with its attributes that are used outside its handler."""

    # In the form of the router, with parameters such as `{model_id:path}`.
    path: str
    methods: tuple[str, ...]
    # Scope required of the caller's key; None for endpoints that need no key.
    scope: str | None
    # Route in metrics, logs and traces, from a closed set.
    label: str
    # The edge calls the endpoint of POST requests directly, past the router.
    hot: bool = False
    # `gen_ai.operation.name` of the request's span; None for endpoints that are not traced.
    operation: str | None = None
    # Makes the body of an error that comes before the first byte.
    error_object: Callable[[ApiError], dict[str, Any]] = error_object
    # Status of such an error; None: its own.
    error_status: Callable[[ApiError], int] | None = None
    # Headers with the request's id.
    request_id_headers: tuple[bytes, ...] = (b"x-request-id",)


class EndpointTable:
    """Endpoints of one application, by path."""

    def __init__(self, endpoints: Iterable[Endpoint], *, scope: str | None) -> None:
        """`scope` is required for unknown paths, so that only authorised callers learn which exist.

        None requires no key, for an application that has the same answer for all of them.
        """
        self.endpoints = tuple(endpoints)
        self._unknown = Endpoint("", (), scope, label="other")
        self._by_path = {endpoint.path: endpoint for endpoint in self.endpoints if "{" not in endpoint.path}
        self._patterns = [
            (compile_path(endpoint.path)[0], endpoint)
            for endpoint in self.endpoints
            if endpoint.path not in self._by_path
        ]

    def find(self, path: str) -> Endpoint:
        """Return the endpoint at `path`, or one labelled "other" that accepts no method."""
        endpoint = self._by_path.get(path)
        if endpoint is not None:
            return endpoint
        for pattern, endpoint in self._patterns:
            if pattern.match(path):
                return endpoint
        return self._unknown


def _get(path: str, scope: str | None) -> Endpoint:
    return Endpoint(path, ("GET", "HEAD"), scope, label=path)


CHAT_COMPLETIONS: Final = Endpoint(
    "/v1/chat/completions", ("POST",), INFERENCE, label="/v1/chat/completions", hot=True, operation="chat"
)
COMPLETIONS: Final = Endpoint(
    "/v1/completions", ("POST",), INFERENCE, label="/v1/completions", hot=True, operation="text_completion"
)
_ANTHROPIC: Final[Mapping[str, Any]] = {
    "error_object": answer.error_object,
    "error_status": answer.error_status,
    "request_id_headers": (b"x-request-id", b"request-id"),
}
MESSAGES: Final = Endpoint(
    "/v1/messages", ("POST",), INFERENCE, label="/v1/messages", hot=True, operation="chat", **_ANTHROPIC
)
COUNT_TOKENS: Final = Endpoint(
    "/v1/messages/count_tokens",
    ("POST",),
    INFERENCE,
    label="/v1/messages/count_tokens",
    hot=True,
    **_ANTHROPIC,
)
RESPONSES: Final = Endpoint(
    "/v1/responses", ("POST",), INFERENCE, label="/v1/responses", hot=True, operation="chat"
)
RESPONSE: Final = Endpoint(
    "/v1/responses/{response_id}",
    ("DELETE", "GET", "HEAD"),
    INFERENCE,
    label="/v1/responses/{response_id}",
)
RESPONSE_INPUT: Final = Endpoint(
    "/v1/responses/{response_id}/input_items",
    ("GET", "HEAD"),
    INFERENCE,
    label="/v1/responses/{response_id}/input_items",
)
FILES: Final = Endpoint("/v1/files", ("GET", "HEAD", "POST"), INFERENCE, label="/v1/files")
FILE: Final = Endpoint(
    "/v1/files/{file_id}", ("DELETE", "GET", "HEAD"), INFERENCE, label="/v1/files/{file_id}"
)
FILE_CONTENT: Final = _get("/v1/files/{file_id}/content", INFERENCE)
BATCHES: Final = Endpoint("/v1/batches", ("GET", "HEAD", "POST"), INFERENCE, label="/v1/batches")
BATCH: Final = _get("/v1/batches/{batch_id}", INFERENCE)
BATCH_CANCEL: Final = Endpoint(
    "/v1/batches/{batch_id}/cancel", ("POST",), INFERENCE, label="/v1/batches/{batch_id}/cancel"
)
TOKENIZE: Final = Endpoint("/tokenize", ("POST",), INFERENCE, label="/tokenize")
DETOKENIZE: Final = Endpoint("/detokenize", ("POST",), INFERENCE, label="/detokenize")
MODELS: Final = _get("/v1/models", INFERENCE)
# Model names may contain slashes.
MODEL: Final = Endpoint(
    "/v1/models/{model_id:path}", ("GET", "HEAD"), INFERENCE, label="/v1/models/{model_id}"
)
USAGE: Final = _get("/v1/usage", INFERENCE)
OPENAPI: Final = _get("/openapi.json", INFERENCE)
ROOT: Final = _get("/", None)
HEALTHZ: Final = _get("/healthz", None)
READYZ: Final = _get("/readyz", None)
METRICS: Final = _get("/metrics", None)

# The API where the metrics have a port of their own.
API_WITHOUT_METRICS: Final = EndpointTable(
    (
        CHAT_COMPLETIONS,
        COMPLETIONS,
        MESSAGES,
        COUNT_TOKENS,
        RESPONSES,
        RESPONSE,
        RESPONSE_INPUT,
        FILES,
        FILE,
        FILE_CONTENT,
        BATCHES,
        BATCH,
        BATCH_CANCEL,
        TOKENIZE,
        DETOKENIZE,
        MODELS,
        MODEL,
        USAGE,
        OPENAPI,
        ROOT,
        HEALTHZ,
        READYZ,
    ),
    scope=INFERENCE,
)
API: Final = EndpointTable((*API_WITHOUT_METRICS.endpoints, METRICS), scope=INFERENCE)
METRICS_PAGE: Final = EndpointTable((METRICS, HEALTHZ), scope=INFERENCE)

ADMIN_KEYS: Final = Endpoint("/admin/keys", ("GET", "HEAD", "POST"), ADMIN, label="/admin/keys")
ADMIN_KEY: Final = Endpoint("/admin/keys/{key_id}", ("DELETE", "PATCH"), ADMIN, label="/admin/keys/{key_id}")
# Has the label of the other requests for a single key.
ADMIN_KEY_ROTATE: Final = Endpoint(
    "/admin/keys/{key_id}/rotate", ("POST",), ADMIN, label="/admin/keys/{key_id}"
)
ADMIN_TEAMS: Final = Endpoint("/admin/teams", ("GET", "HEAD", "POST"), ADMIN, label="/admin/teams")
ADMIN_TEAM: Final = Endpoint(
    "/admin/teams/{team_id}", ("DELETE", "PATCH"), ADMIN, label="/admin/teams/{team_id}"
)
ADMIN_ENGINES: Final = _get("/admin/engines", ADMIN)
# Names of engines hold the slashes of their URLs' paths.
_ENGINE: Final = "/admin/engines/{name:path}"
_ENGINE_LABEL: Final = "/admin/engines/{name}"
ADMIN_ENGINE_DRAIN: Final = Endpoint(f"{_ENGINE}/drain", ("POST",), ADMIN, label=_ENGINE_LABEL)
ADMIN_ENGINE_UNDRAIN: Final = Endpoint(f"{_ENGINE}/undrain", ("POST",), ADMIN, label=_ENGINE_LABEL)
ADMIN_ENGINE_WEIGHT: Final = Endpoint(f"{_ENGINE}/weight", ("POST",), ADMIN, label=_ENGINE_LABEL)
ADMIN_USAGE: Final = _get("/admin/usage", ADMIN)
# Public: a browser sends no key when it opens a page, and neither page nor document holds data.
ADMIN_DOCS: Final = _get("/docs", None)
ADMIN_DOCS_ASSET: Final = Endpoint("/docs/{name}", ("GET", "HEAD"), None, label="/docs")
ADMIN_OPENAPI: Final = _get("/openapi.json", None)

ADMIN_API: Final = EndpointTable(
    (
        ADMIN_KEYS,
        ADMIN_KEY,
        ADMIN_KEY_ROTATE,
        ADMIN_TEAMS,
        ADMIN_TEAM,
        ADMIN_ENGINES,
        ADMIN_ENGINE_DRAIN,
        ADMIN_ENGINE_UNDRAIN,
        ADMIN_ENGINE_WEIGHT,
        ADMIN_USAGE,
        ADMIN_DOCS,
        ADMIN_DOCS_ASSET,
        ADMIN_OPENAPI,
        HEALTHZ,
    ),
    scope=ADMIN,
)
