"""The FastAPI application by itself, and behind its edge."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from serval.api.application import Application, create_api
from serval.api.edge import RequestEdge
from serval.api.endpoints import API, CHAT_COMPLETIONS, HEALTHZ, Endpoint, EndpointTable
from serval.api.http import attach_identity, send_json
from serval.caller.identity import Identity
from serval.telemetry.metrics import Metrics


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_route_of_a_hot_endpoint_runs_its_asgi_application(path: str) -> None:
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, (await receive())["body"], status=202)

    async def with_caller(scope: Scope, receive: Receive, send: Send) -> None:
        attach_identity(scope, Identity(scopes=frozenset()))
        await api(scope, receive, send)

    api = create_api()
    api.state.hot = {path: endpoint}
    async with client_of(with_caller) as client:
        response = await client.post(path, content=b'{"as": "it came"}')
    assert (response.status_code, response.json()) == (202, {"as": "it came"})


class _NoAuthentication:
    async def identify(self, authorization: str | None) -> Identity:
        return Identity(scopes=frozenset({"inference"}))


def edge_around(app: ASGIApp, *endpoints: Endpoint, hot: Mapping[str, ASGIApp]) -> RequestEdge:
    return RequestEdge(
        app,
        hot=hot,
        endpoints=EndpointTable(endpoints, scope="inference"),
        authenticator=_NoAuthentication(),  # type: ignore[arg-type]  # all that the edge asks of it
        metrics=Metrics(None),
    )


async def test_edge_calls_hot_endpoints_past_the_router() -> None:
    async def router(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, b'"router"')

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, b'"endpoint"')

    edge = edge_around(router, CHAT_COMPLETIONS, HEALTHZ, hot={CHAT_COMPLETIONS.path: endpoint})
    async with client_of(edge) as client:
        assert (await client.post(CHAT_COMPLETIONS.path)).json() == "endpoint"
        assert (await client.get(CHAT_COMPLETIONS.path)).json() == "router"
        assert (await client.get(HEALTHZ.path)).json() == "router"


async def test_unexpected_error_of_a_route_is_an_internal_error() -> None:
    app = Application(API, title="t", description="d", max_body_bytes=0)

    @app.get(HEALTHZ.path)
    async def broken() -> None:
        raise RuntimeError("canary")

    async with client_of(edge_around(app, HEALTHZ, hot={})) as client:
        response = await client.get(HEALTHZ.path)
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "canary" not in response.text


def test_document_has_no_422_and_no_dangling_reference() -> None:
    document = create_api().openapi()
    names = set(document["components"]["schemas"])
    references = set(references_of(document))
    assert {name for kind, name in references if kind == "schemas"} <= names
    assert {name for kind, name in references if kind == "headers"} <= set(document["components"]["headers"])
    for methods in document["paths"].values():
        for operation in methods.values():
            assert "422" not in operation["responses"]
    assert not {"HTTPValidationError", "ValidationError"} & names


def references_of(node: Any) -> list[tuple[str, str]]:
    """Kind and name of each component that is referred to."""
    if isinstance(node, list):
        return [reference for value in node for reference in references_of(value)]
    if not isinstance(node, dict):
        return []
    found = [reference for value in node.values() for reference in references_of(value)]
    if isinstance(node.get("$ref"), str):
        _, _, kind, name = node["$ref"].split("/")
        found.append((kind, name))
    return found
