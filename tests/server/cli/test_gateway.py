"""`serval gateway` as a process: it waits for the engine, serves, and stops with exit code 0."""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from openai import AsyncOpenAI

from serval.cli import main
from serval.cli.gateway import configure, gateway_settings
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.stand_in_engine import StandInEngine

WAIT_S = 60


@asynccontextmanager
async def serval_gateway(*options: str, **variables: str) -> AsyncIterator[Process]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVAL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; from serval.cli import main; sys.exit(main())",
        "gateway", "--port", "0", *options,
        stdout=PIPE, stderr=PIPE, env=environment | variables,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_with(process: Process, text: str) -> str:
    assert process.stderr is not None
    seen = ""
    while True:
        line = (await asyncio.wait_for(process.stderr.readline(), WAIT_S)).decode()
        if not line:
            raise AssertionError(f"{text!r} did not come up in: {seen}")
        if text in line:
            return line
        seen += line


async def test_gateway_serves_the_engines_model_and_stops_on_sigterm() -> None:
    async with (
        StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as engine,
        serval_gateway("--engine-url", engine.url, SERVAL_API_KEY="k") as process,
    ):
        url = (await line_with(process, "serving checkpoint on")).split()[-1]
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
            models = await client.models.list()
            assert [model.id for model in models.data] == ["checkpoint"]
            answer = await client.chat.completions.create(
                model="checkpoint", messages=[{"role": "user", "content": "Hi"}]
            )
            assert answer.choices[0].message.content == "Hello world"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0


async def test_gateway_stop_lets_a_running_stream_end() -> None:
    async with StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as engine:
        engine.will_say("a", "b", "c", delay_s=0.3)
        async with serval_gateway("--engine-url", engine.url, SERVAL_API_KEY="k") as process:
            url = (await line_with(process, "serving")).split()[-1]
            async with aiohttp.ClientSession() as http:
                body = {
                    "model": "checkpoint",
                    "messages": [{"role": "user", "content": "Hi"}],
                    "stream": True,
                }
                async with http.post(
                    f"{url}/v1/chat/completions", json=body, headers={"authorization": "Bearer k"}
                ) as response:
                    await response.content.readany()
                    process.send_signal(signal.SIGTERM)
                    text = (await response.content.read()).decode()
            assert text.endswith("data: [DONE]\n\n")
            assert await asyncio.wait_for(process.wait(), WAIT_S) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_gateway_listens_while_its_engine_loads(workers: str) -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT))
    engine.ready = False
    variables = {"SERVAL_API_KEY": "k", "SERVAL_METRICS_PORT": "0"}
    async with (
        engine.running(),
        serval_gateway("--engine-url", engine.url, "--workers", workers, **variables) as process,
        aiohttp.ClientSession() as http,
    ):
        url = (await line_with(process, "answering 503 on")).split()[5]

        async def answer(method: str, path: str) -> tuple[int, str | None, str]:
            async with http.request(method, url + path) as response:
                return response.status, response.headers.get("retry-after"), await response.text()

        assert await answer("GET", "/healthz") == (200, None, '{"status":"ok"}')
        for method, path in (("GET", "/readyz"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models")):
            status, retry_after, text = await answer(method, path)
            assert (status, retry_after) == (503, "10"), path
            assert json.loads(text)["error"]["code"] == "engine_unavailable"
        engine.ready = True
        served = (await line_with(process, "serving checkpoint")).split()[-1]
        assert served == url
        assert (await answer("GET", "/readyz"))[0] == 200
        assert (await answer("GET", "/v1/models"))[0] == 401
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0


async def test_gateway_has_metrics_while_its_engine_loads() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    async with (
        serval_gateway("--engine-url", "http://127.0.0.1:1", SERVAL_METRICS_PORT=str(port)) as process,
        aiohttp.ClientSession() as http,
    ):
        url = (await line_with(process, "answering 503 on")).split()[5]
        async with http.get(f"http://127.0.0.1:{port}/metrics") as page:
            assert page.status == 200
            assert "serval_engine_up 0.0" in await page.text()
        # The port that proxies reach does not have them.
        async with http.get(f"{url}/metrics") as refused:
            assert refused.status == 503
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0


async def test_gateway_can_be_stopped_while_it_waits() -> None:
    async with serval_gateway("--engine-url", "http://127.0.0.1:1") as process:
        await line_with(process, "waiting for the engine")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 0


async def exit_of(*options: str, **variables: str) -> tuple[int, str]:
    async with serval_gateway(*options, **variables) as process:
        _, errors = await asyncio.wait_for(process.communicate(), WAIT_S)
        assert process.returncode is not None
        return process.returncode, errors.decode()


async def test_gateway_gives_up_after_engine_timeout() -> None:
    code, errors = await exit_of("--engine-url", "http://127.0.0.1:1", "--engine-timeout", "0.1")
    assert code == 1
    assert "was not ready within 0.1 s" in errors
    assert "Traceback" not in errors


async def test_gateway_refuses_an_engine_that_streams_cumulative_text() -> None:
    engine = StandInEngine(model_path=str(DEMO_CHECKPOINT))
    engine.incremental_streaming_output = False
    async with engine.running():
        code, errors = await exit_of("--engine-url", engine.url)
    assert code == 1
    assert "--incremental-streaming-output" in errors


async def test_gateway_requires_model_if_the_engines_folder_is_missing() -> None:
    async with StandInEngine(model_path="org/model").running() as engine:
        code, errors = await exit_of("--engine-url", engine.url)
    assert code == 1
    assert "--model" in errors


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        ((), {"SERVAL_API_KEY": " "}, "SERVAL_API_KEY"),
        (("--api-key-file", "/does/not/exist"), {}, "/does/not/exist"),
        ((), {"SERVAL_MAX_CHOICES": "many"}, "max_choices"),
        ((), {"SERVAL_API_KEY_FILE": os.devnull}, "holds no key"),
    ],
)
async def test_gateway_names_mistakes_in_the_settings_at_once(
    options: tuple[str, ...], variables: dict[str, str], message: str
) -> None:
    code, errors = await exit_of(*options, **variables)
    assert code == 1
    assert message in errors
    assert "Traceback" not in errors


async def test_gateway_names_a_port_that_is_taken(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# staff\nk1\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, errors = await exit_of("--port", str(port), "--api-key-file", str(keys))
    assert code == 1
    assert f"127.0.0.1:{port}" in errors


def test_engine_option_may_be_given_again_and_wins_over_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVAL_ENGINES_FILE", "/engines")
    monkeypatch.setenv("SERVAL_ENGINE_URL", "http://c:3")
    parser = argparse.ArgumentParser()
    configure(parser)
    given = gateway_settings(parser.parse_args(["--engine-url", "http://a:1", "--engine-url=http://b:2"]))
    assert (given.engine_url, given.engines_file) == ("http://a:1,http://b:2", None)
    from_variables = gateway_settings(parser.parse_args([]))
    assert from_variables.engine_url == "http://c:3"
    assert from_variables.engines_file == Path("/engines")


@pytest.mark.parametrize("url", ["http://engine-{3..1}:30000", "http://a:1,b:2", "dns+https://engines:1"])
def test_check_finds_engines_that_are_named_wrongly(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVAL_API_KEY", "k")
    assert main(["gateway", "--check", "--port=0", "--engine-url", url]) == 1
    assert "engine" in capsys.readouterr().err
