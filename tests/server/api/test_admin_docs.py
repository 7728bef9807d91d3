"""The admin API's document, and the page that shows it."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from serval_testkit.fleet import new_engine, running_fleet
from serval_testkit.gateway import MODEL, RunningGateway

ADMIN_KEY = "admin-canary-5ce8"
STATIC = Path(__file__).parents[3] / "server" / "serval" / "api" / "static"


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    settings = {"key_database": str(tmp_path / "keys.db"), "admin_port": 0, "admin_key": ADMIN_KEY}
    # A fleet, so that there are engines to manage.
    async with running_fleet(new_engine(), as_range=True, **settings) as fleet:
        yield fleet.gateway


async def call(gateway: RunningGateway, method: str, path: str, **options: Any) -> Any:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with gateway.http.request(method, gateway.admin_url + path, headers=headers, **options) as response:
        await response.read()
        return response


async def test_answers_and_errors_match_the_document(gateway: RunningGateway) -> None:
    document = await (await call(gateway, "GET", "/openapi.json")).json()
    limits = {"limits": {"tokens_per_day": 5, "tokens_per_minute": "unlimited"}}
    made = await (await call(gateway, "POST", "/admin/keys", json={"name": "a", **limits})).json()
    budgets = {"budgets": [{"unit": "cost", "period": "week", "hard": "2.5", "soft": None}]}
    team = (await (await call(gateway, "POST", "/admin/teams", json={"name": "t"})).json())["id"]
    empty = (await (await call(gateway, "POST", "/admin/teams", json={"name": "t"})).json())["id"]
    one = f"/admin/keys/{made['id']}"
    (named,) = (await (await call(gateway, "GET", "/admin/engines")).json())["data"]
    engine = f"/admin/engines/{named['name']}"
    whole = {"name": "b", "scopes": ["inference", "bulk"], "models": [MODEL], "expires_in_s": 60}
    asked: list[tuple[str, str, str, Any, int]] = [
        ("POST", "/admin/keys", "/admin/keys", whole, 201),
        ("GET", "/admin/keys", "/admin/keys", None, 200),
        ("PATCH", one, "/admin/keys/{key_id}", {**limits, **budgets, "team": team}, 200),
        ("PATCH", one, "/admin/keys/{key_id}", {"team": "none"}, 404),
        ("POST", "/admin/teams", "/admin/teams", {"name": "t", **limits, **budgets}, 201),
        ("GET", "/admin/teams", "/admin/teams", None, 200),
        ("PATCH", f"/admin/teams/{team}", "/admin/teams/{team_id}", budgets, 200),
        ("DELETE", f"/admin/teams/{empty}", "/admin/teams/{team_id}", None, 200),
        ("DELETE", f"/admin/teams/{empty}", "/admin/teams/{team_id}", None, 404),
        ("DELETE", f"/admin/teams/{team}", "/admin/teams/{team_id}", None, 400),
        ("POST", one + "/rotate", "/admin/keys/{key_id}/rotate", {"grace_s": 5}, 201),
        ("DELETE", one, "/admin/keys/{key_id}", None, 200),
        ("DELETE", "/admin/keys/none", "/admin/keys/{key_id}", None, 404),
        ("POST", "/admin/keys", "/admin/keys", {}, 400),
        ("GET", "/admin/engines", "/admin/engines", None, 200),
        ("POST", engine + "/weight", "/admin/engines/{name}/weight", {"weight": "5%"}, 200),
        ("POST", engine + "/drain", "/admin/engines/{name}/drain", {"force": False}, 400),
        ("POST", engine + "/drain", "/admin/engines/{name}/drain", {"force": True}, 200),
        ("POST", engine + "/undrain", "/admin/engines/{name}/undrain", {}, 200),
        ("POST", "/admin/engines/absent/undrain", "/admin/engines/{name}/undrain", {}, 404),
        ("GET", "/admin/usage", "/admin/usage", None, 200),
        ("GET", "/healthz", "/healthz", None, 200),
        ("GET", "/openapi.json", "/openapi.json", None, 200),
    ]
    for method, path, described, body, status in asked:
        response = await call(gateway, method, path, json=body)
        assert response.status == status, (method, path)
        answer = document["paths"][described][method.lower()]["responses"][str(status)]
        schema = answer["content"]["application/json"]["schema"]
        validator = Draft202012Validator({**schema, "components": document["components"]})
        validator.validate(await response.json())
        assert set(answer["headers"]) <= {name.lower() for name in response.headers}
    assert {path for _, _, path, _, _ in asked} == set(document["paths"])
    schemas = document["components"]["schemas"]
    assert "default" not in schemas["LimitChanges"]["properties"]["tokens_per_day"]
    assert schemas["CreateKey"]["additionalProperties"] is False


async def test_page_loads_only_files_of_this_server(gateway: RunningGateway) -> None:
    async with gateway.http.get(f"{gateway.admin_url}/docs") as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        policy = response.headers["content-security-policy"]
        page = await response.text()
    assert "default-src 'none'" in policy
    assert set(re.findall(r"\w+-src '(.*?)'", policy)) == {"none", "self"}
    files = re.findall(r'(?:href|src)="(/.*?)"', page)
    script = (STATIC / "docs.js").read_text()
    files += re.findall(r'url: "(.*?)"', script)
    assert len(files) == 4
    for file in files:
        async with gateway.http.get(gateway.admin_url + file) as response:
            assert response.status == 200, file
            assert response.headers["x-request-id"]
    for name in ("docs.html", "docs.css", "docs.js"):
        assert "//" not in re.sub(r"^ *//.*$", "", (STATIC / name).read_text(), flags=re.MULTILINE)


async def test_page_has_the_documents_of_both_apis(gateway: RunningGateway) -> None:
    inference = await (await call(gateway, "GET", "/docs/inference.json")).json()
    assert inference == await (await gateway.get("/openapi.json")).json()
    assert (await call(gateway, "GET", "/docs/nothing.js")).status == 404


async def test_page_is_on_the_admin_port_only(gateway: RunningGateway) -> None:
    assert (await gateway.get("/docs")).status == 404
    assert (await gateway.get("/docs", key=None)).status == 401
