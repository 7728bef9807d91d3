"""Routes, methods, keys and headers."""

import pytest

from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway


async def test_models_are_listed_and_retrieved(gateway: RunningGateway) -> None:
    models = await gateway.openai.models.list()
    assert [model.id for model in models.data] == [MODEL]
    assert models.data[0].object == "model"
    assert await gateway.openai.models.retrieve(MODEL) == models.data[0]


async def test_model_name_with_a_slash_is_found() -> None:
    async with running_gateway(served_model_name="org/model") as gateway:
        assert (await (await gateway.get("/v1/models/org/model")).json())["id"] == "org/model"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1", 404, "unknown_url"),
        ("POST", "/", 405, "method_not_allowed"),
        ("POST", "/generate", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
async def test_routing_error_is_an_openai_error_object(
    gateway: RunningGateway, method: str, path: str, status: int, code: str
) -> None:
    response = await gateway.get(path, method=method)
    assert response.status == status
    error = (await response.json())["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert response.headers["x-request-id"]
    if status == 405:
        assert response.headers["allow"]


@pytest.mark.parametrize(
    ("path", "advice"),
    [
        (
            "/chat/completions",
            "Did you mean /v1/chat/completions? The base URL of your client then ends in /v1.",
        ),
        ("/models/a", "Did you mean /v1/models/a? "),
        ("/v1/v1/messages", "Did you mean /v1/messages? The base URL of your client then ends without /v1."),
        ("/v1/v1/nothing", "Check the path and the base URL of your client."),
        ("/nothing", "Check the path and the base URL of your client."),
    ],
)
async def test_unknown_url_names_the_base_url_that_is_meant(
    gateway: RunningGateway, path: str, advice: str
) -> None:
    error = (await (await gateway.get(path)).json())["error"]
    assert f"Unknown URL (GET {path}). {advice}" in error["message"]


@pytest.mark.parametrize("path", ["/v1/models/", "/healthz/", f"/v1/models/{MODEL}/"])
async def test_trailing_slash_is_ignored(gateway: RunningGateway, path: str) -> None:
    assert (await gateway.get(path)).status == 200


async def test_trailing_slash_of_chat_is_ignored(gateway: RunningGateway) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    assert (await gateway.post(body, path="/v1/chat/completions/")).status == 200


async def test_head_is_get_without_a_body(gateway: RunningGateway) -> None:
    response = await gateway.get("/v1/models", method="HEAD")
    assert response.status == 200
    assert int(response.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/chat/completions", "/openapi.json", "/nothing", "//healthz"]
)
async def test_request_without_a_key_is_a_401(gateway: RunningGateway, path: str) -> None:
    response = await gateway.get(path, key=None)
    assert response.status == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert (await response.json())["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_health_needs_no_key(gateway: RunningGateway, path: str) -> None:
    assert (await gateway.get(path, key=None)).status == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (f"Bearer {API_KEY}", 200),
        (f"bearer {API_KEY}", 200),
        (f"BEARER   {API_KEY}", 200),
        (f"Bearer {API_KEY}x", 401),
        (f"Bearer {API_KEY[:-1]}", 401),
        ("Bearer ", 401),
        ("Bearer", 401),
        (f"Basic {API_KEY}", 401),
        (API_KEY, 401),
        ("", 401),
        ("Bearer \u00e9", 401),
    ],
)
async def test_authorization_header_is_checked(
    gateway: RunningGateway, authorization: str, status: int
) -> None:
    async with gateway.http.get(
        f"{gateway.url}/v1/models", headers={"authorization": authorization}
    ) as response:
        assert response.status == status
        if status == 401:
            text = await response.text()
            assert API_KEY[:-1] not in text


async def test_readyz_follows_the_engine(gateway: RunningGateway) -> None:
    assert (await gateway.get("/readyz")).status == 200
    gateway.engine.ready = False
    response = await gateway.get("/readyz")
    assert response.status == 503
    assert (await response.json())["error"]["code"] == "engine_unavailable"
    assert (await gateway.get("/healthz")).status == 200


async def test_request_ids_are_unique(gateway: RunningGateway) -> None:
    ids = {(await gateway.get("/v1/models")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3


async def test_openapi_document_covers_the_routes(gateway: RunningGateway) -> None:
    document = await (await gateway.get("/openapi.json")).json()
    assert set(document["paths"]) == {
        "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens",
        "/v1/responses", "/v1/responses/{response_id}", "/v1/responses/{response_id}/input_items",
        "/v1/files", "/v1/files/{file_id}", "/v1/files/{file_id}/content",
        "/v1/batches", "/v1/batches/{batch_id}", "/v1/batches/{batch_id}/cancel",
        "/tokenize", "/detokenize", "/v1/usage",
        "/v1/models", "/v1/models/{model_id}", "/openapi.json", "/", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    assert "ChatRequest" in document["components"]["schemas"]


async def test_response_has_no_server_header(gateway: RunningGateway) -> None:
    assert "server" not in (await gateway.get("/healthz")).headers
