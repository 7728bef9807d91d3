"""Metrics on a port of their own: anyone who reaches that port may read them, clients of the API may not."""

from serval_testkit.gateway import API_KEY, MODEL, running_gateway

HI = [{"role": "user", "content": "Hi"}]


async def test_metrics_are_on_their_own_port_only_if_they_have_one() -> None:
    async with running_gateway(metrics_port=0) as gateway:
        await gateway.post({"model": MODEL, "messages": HI})
        for path in ("/metrics", "/metrics/"):
            assert (await gateway.get(path, key=None)).status == 401
            assert (await gateway.get(path)).status == 404
        document = await (await gateway.get("/openapi.json")).json()
        assert "/metrics" not in document["paths"]
        assert (await gateway.get("/healthz", key=None)).status == 200
        async with gateway.http.get(f"{gateway.metrics_url}/metrics") as response:
            assert response.status == 200
            text = await response.text()
    assert 'serval_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
    assert "serval_engine_up 1.0" in text


async def test_metrics_port_serves_nothing_else() -> None:
    async with running_gateway(metrics_port=0) as gateway:
        headers = {"authorization": f"Bearer {API_KEY}"}
        for path in ("/v1/models", "/openapi.json", "/admin/keys", "/tokenize"):
            async with gateway.http.get(gateway.metrics_url + path, headers=headers) as response:
                assert response.status == 404
        body = {"model": MODEL, "messages": HI}
        url = f"{gateway.metrics_url}/v1/chat/completions"
        async with gateway.http.post(url, json=body, headers=headers) as response:
            assert response.status == 404
        assert gateway.engine.requests == []


async def test_metrics_are_on_the_port_of_the_api_by_default() -> None:
    async with running_gateway() as gateway:
        assert gateway.metrics_url == ""
        assert (await gateway.get("/metrics", key=None)).status == 200
