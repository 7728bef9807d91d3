"""Bodies of the endpoints that FastAPI validates: the same bounds and errors as on the hot endpoints."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway

ADMIN_KEY = "admin-canary-9b03"

NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"model": "x"',
    "two documents": b"{} {}",
    "not UTF-8": b'{"model": "\xff"}',
    "UTF-16": '{"model": "x"}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"model": "x"}',
    "lone surrogate": b'{"model": "\\ud800"}',
    "NaN": b'{"model": "x", "tokens": [NaN]}',
    "nested too deeply": b'{"model": ' + b"[" * 50_000,
}


@pytest.mark.parametrize("case", NOT_JSON)
async def test_body_that_is_not_json_is_a_400(gateway: RunningGateway, case: str) -> None:
    response = await gateway.post(NOT_JSON[case], path="/detokenize")
    error = (await response.json())["error"]
    assert (response.status, error["code"], error["param"]) == (400, "invalid_json", None)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"3"])
async def test_body_that_is_no_object_is_a_400(gateway: RunningGateway, body: bytes) -> None:
    response = await gateway.post(body, path="/tokenize")
    error = (await response.json())["error"]
    assert (response.status, error["code"], error["param"]) == (400, "invalid_type", None)


@pytest.mark.parametrize("number", [b"1e400", b"1" * 5000])
async def test_number_out_of_range_is_a_400(gateway: RunningGateway, number: bytes) -> None:
    response = await gateway.post(b'{"model": "x", "tokens": [%b]}' % number, path="/detokenize")
    assert response.status == 400
    assert (await response.json())["error"]["param"] == "tokens[0]"


async def test_last_of_two_fields_with_one_name_counts(gateway: RunningGateway) -> None:
    body = b'{"model": "%b", "prompt": "one", "prompt": "two"}' % MODEL.encode()
    twice = await gateway.post(body, path="/tokenize")
    once = await gateway.post({"model": MODEL, "prompt": "two"}, path="/tokenize")
    assert await twice.json() == await once.json()


async def test_unknown_fields_of_tokenize_are_ignored(gateway: RunningGateway) -> None:
    response = await gateway.post({"model": MODEL, "prompt": "x", "add_special_tokens": 1}, path="/tokenize")
    assert response.status == 200
    # Even one that no known field could hold.
    body = b'{"model": "%b", "prompt": "x", "later": 1e400}' % MODEL.encode()
    assert (await gateway.post(body, path="/tokenize")).status == 200


async def test_values_are_not_converted(gateway: RunningGateway) -> None:
    for tokens in (["5"], [5.0], [True]):
        response = await gateway.post({"model": MODEL, "tokens": tokens}, path="/detokenize")
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["param"]) == (400, "invalid_type", "tokens[0]")


async def test_another_content_type_is_a_400(gateway: RunningGateway) -> None:
    body = b'{"model": "%b", "prompt": "x"}' % MODEL.encode()
    for content_type, status in (
        ("text/plain", 400),
        ("application/vnd.api+json", 400),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
    ):
        response = await gateway.post(body, path="/tokenize", headers={"content-type": content_type})
        assert response.status == status, content_type
        if status == 400:
            assert (await response.json())["error"]["code"] == "invalid_content_type"


async def test_body_without_content_type_is_read_as_json(gateway: RunningGateway) -> None:
    async with gateway.http.post(
        f"{gateway.url}/tokenize",
        data=b'{"model": "%b", "prompt": "x"}' % MODEL.encode(),
        headers={"authorization": f"Bearer {API_KEY}"},
        skip_auto_headers=["content-type"],
    ) as response:
        assert response.status == 200


@pytest.fixture
async def admin_gateway(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(
        key_database=str(tmp_path / "keys.db"), admin_port=0, admin_key=ADMIN_KEY, max_body_bytes=4096
    ) as running:
        yield running


async def admin_post(gateway: RunningGateway, path: str, **options: Any) -> Any:
    headers = {"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"}
    async with gateway.http.post(gateway.admin_url + path, headers=headers, **options) as response:
        await response.read()
        return response


async def test_body_over_the_limit_is_a_413(admin_gateway: RunningGateway) -> None:
    large = {"model": MODEL, "prompt": "x" * 5000}
    response = await admin_gateway.post(large, path="/tokenize")
    assert (response.status, response.headers["connection"]) == (413, "close")
    # The admin API has a limit of its own.
    response = await admin_post(admin_gateway, "/admin/keys", json={"name": "x" * 5000})
    assert response.status == 400
    response = await admin_post(admin_gateway, "/admin/keys", json={"name": "x" * 70_000})
    assert (response.status, response.headers["connection"]) == (413, "close")
    assert (await response.json())["error"]["code"] == "request_too_large"


async def test_body_that_is_optional_may_be_empty_but_not_null(admin_gateway: RunningGateway) -> None:
    made = await (await admin_post(admin_gateway, "/admin/keys", json={"name": "a"})).json()
    path = f"/admin/keys/{made['id']}/rotate"
    assert (await admin_post(admin_gateway, path, data=b"null")).status == 400
    assert (await admin_post(admin_gateway, path, data=b"")).status == 201


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "name", "missing_required_parameter"),
        ({"name": "a", "nope": 1}, "nope", "unknown_parameter"),
        ({"name": "a", "limits": {"nope": 1}}, "limits.nope", "unknown_parameter"),
        ({"name": 3}, "name", "invalid_type"),
        ({"name": "a", "models": ["m", "a\n"]}, "models[1]", "invalid_value"),
        ({"name": "a", "expires_in_s": True}, "expires_in_s", "invalid_type"),
        ({"name": "a", "expires_in_s": 1.5}, "expires_in_s", "invalid_type"),
        ({"name": "a", "limits": {"tokens_per_day": 10**10}}, "limits.tokens_per_day", "invalid_value"),
        ({"name": "a", "limits": {"tokens_per_day": "none"}}, "limits.tokens_per_day", "invalid_value"),
        ({"name": "a", "limits": {"tokens_per_day": None}}, "limits.tokens_per_day", "invalid_type"),
        ({"name": "a", "limits": None}, "limits", "invalid_type"),
    ],
)
async def test_error_names_the_field_and_the_kind_of_fault(
    admin_gateway: RunningGateway, body: Any, param: str, code: str
) -> None:
    response = await admin_post(admin_gateway, "/admin/keys", json=body)
    error = (await response.json())["error"]
    assert (response.status, error["param"], error["code"]) == (400, param, code)
    assert f"'{param}'" in error["message"]
