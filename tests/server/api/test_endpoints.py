"""The endpoint tables describe what the two applications serve."""

from pathlib import Path

import pytest

from serval.api.application import Application, create_api, create_metrics_page
from serval.api.endpoints import ADMIN_API, API, API_WITHOUT_METRICS, METRICS_PAGE, EndpointTable
from serval_testkit.gateway import API_KEY, RunningGateway, running_gateway

ADMIN_KEY = "admin-canary-27d4"
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


async def assert_methods(gateway: RunningGateway, url: str, key: str, table: EndpointTable) -> None:
    """Every endpoint answers its methods without failing, and 405 with the list of them to all others."""
    for endpoint in table.endpoints:
        path = (
            endpoint.path.replace("{model_id:path}", "m")
            .replace("{key_id}", "k")
            .replace("{name}", "docs.js")
        )
        for method in METHODS:
            async with gateway.http.request(
                method, url + path, headers={"authorization": f"Bearer {key}"}
            ) as response:
                assert (response.status == 405) == (method not in endpoint.methods), (method, path)
                assert response.status < 500, (method, path)
                if response.status == 405:
                    assert response.headers["allow"] == ", ".join(endpoint.methods)


def methods_of_table(table: EndpointTable) -> dict[str, set[str]]:
    """Methods by path, as an OpenAPI document writes them. It does not describe pages for browsers."""
    return {
        endpoint.path.replace(":path}", "}"): {method.lower() for method in endpoint.methods} - {"head"}
        for endpoint in table.endpoints
        if not endpoint.path.startswith("/docs")
    }


@pytest.mark.parametrize(
    ("app", "table"),
    [
        (create_api(), API),
        (create_api(API_WITHOUT_METRICS), API_WITHOUT_METRICS),
        (create_metrics_page(), METRICS_PAGE),
    ],
    ids=["api", "api without metrics", "metrics page"],
)
def test_routes_and_document_are_those_of_the_table(app: Application, table: EndpointTable) -> None:
    """A route that only one of them knows is not reachable, or has no key, label or description."""
    described = {path: set(methods) for path, methods in app.openapi()["paths"].items()}
    assert described == methods_of_table(table)


async def test_admin_routes_and_document_are_those_of_the_table(tmp_path: Path) -> None:
    async with (
        running_gateway(key_database=str(tmp_path / "keys.db"), admin_port=0, admin_key=ADMIN_KEY) as gateway,
        gateway.http.get(f"{gateway.admin_url}/openapi.json") as response,
    ):
        document = await response.json()
    assert {path: set(methods) for path, methods in document["paths"].items()} == methods_of_table(ADMIN_API)


async def test_api_serves_the_methods_of_its_table(gateway: RunningGateway) -> None:
    await assert_methods(gateway, gateway.url, API_KEY, API)


async def test_admin_api_serves_the_methods_of_its_table(tmp_path: Path) -> None:
    async with running_gateway(
        key_database=str(tmp_path / "keys.db"), admin_port=0, admin_key=ADMIN_KEY
    ) as gateway:
        await assert_methods(gateway, gateway.admin_url, ADMIN_KEY, ADMIN_API)


async def test_endpoints_without_scope_need_no_key(tmp_path: Path) -> None:
    async with running_gateway(
        key_database=str(tmp_path / "keys.db"), admin_port=0, admin_key=ADMIN_KEY
    ) as gateway:
        for url, table in ((gateway.url, API), (gateway.admin_url, ADMIN_API)):
            for endpoint in table.endpoints:
                async with gateway.http.get(url + endpoint.path) as response:
                    assert (response.status == 401) == (endpoint.scope is not None), endpoint.path


@pytest.mark.parametrize(
    ("table", "path", "label"),
    [
        (API, "/v1/chat/completions", "/v1/chat/completions"),
        (API, "/v1/models/org/model", "/v1/models/{model_id}"),
        (API, "/v1/nothing", "other"),
        (API, "/admin/keys", "other"),
        (ADMIN_API, "/admin/keys/k", "/admin/keys/{key_id}"),
        (ADMIN_API, "/admin/keys/k/rotate", "/admin/keys/{key_id}"),
        (ADMIN_API, "/docs/docs.js", "/docs"),
        (ADMIN_API, "/v1/models", "other"),
    ],
)
def test_table_finds_the_label_of_a_path(table: EndpointTable, path: str, label: str) -> None:
    assert table.find(path).label == label


def test_unknown_path_needs_the_scope_of_its_application() -> None:
    assert (API.find("/nothing").scope, ADMIN_API.find("/nothing").scope) == ("inference", "admin")
