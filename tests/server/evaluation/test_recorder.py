"""The recorder between a harness and a server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from serval.evaluation.recorder import Recorder, Sampling
from serval.evaluation.recording import Recording
from serval_testkit.evaluation import AskedServer
from serval_testkit.processes import free_port

SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=64, seed=5)


@asynccontextmanager
async def recorder_of(
    root_url: str, file: Path, sampling: Sampling = SAMPLING, patience_s: float = 60
) -> AsyncIterator[tuple[Recorder, str]]:
    recording = Recording(file)
    recorder = Recorder(root_url, "sk-secret", sampling, recording, patience_s=patience_s)
    recorder.harness_key = "harness"
    async with recorder.serving() as url:
        yield recorder, url
    recording.close()


async def ask(url: str, *, key: str = "harness", **request: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session,
        session.post(f"{url}/chat/completions", json=request) as response,
    ):
        return response.status, await response.json()


async def test_recorder_sets_sampling_and_key(tmp_path: Path) -> None:
    async with AskedServer().running() as server, recorder_of(server.root_url, tmp_path / "r") as (_, url):
        given = {"model": "m", "stop": ["Q:"], "temperature": 0, "seed": 1234, "max_completion_tokens": 9}
        assert (await ask(url, **given))[0] == 200
        assert server.requests == [
            {"model": "m", "stop": ["Q:"], "temperature": 0.7, "top_p": 0.9, "seed": 5, "max_tokens": 64}
        ]
        assert server.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in (tmp_path / "r").read_text()


async def test_recorder_serves_its_harness_alone(tmp_path: Path) -> None:
    async with (
        AskedServer().running() as server,
        recorder_of(server.root_url, tmp_path / "r") as (recorder, url),
    ):
        recorder.harness_key = Recorder("", None, SAMPLING, recorder._recording, patience_s=1).harness_key
        for key in ("", "harness", "kept-by-the-recorder"):
            assert (await ask(url, key=key, model="m"))[0] == 401
        assert server.requests == []
        assert (await ask(url, key=recorder.harness_key, model="m"))[0] == 200
    assert len((tmp_path / "r").read_text().splitlines()) == 1


async def test_recorder_leaves_the_longest_answer_to_the_context(tmp_path: Path) -> None:
    sampling = Sampling(temperature=0, top_p=1, max_tokens=None, seed=0)
    async with (
        AskedServer().running() as server,
        recorder_of(server.root_url, tmp_path / "r", sampling) as (_, url),
    ):
        await ask(url, max_tokens=256)
        assert server.requests == [{"temperature": 0, "top_p": 1, "seed": 0}]


async def test_recorder_answers_from_the_recording_and_then_asks(tmp_path: Path) -> None:
    async with AskedServer().running() as server:
        for expected in ("1", "1"):
            async with recorder_of(server.root_url, tmp_path / "r") as (_, url):
                _, answer = await ask(url, model="m")
                assert answer["choices"][0]["message"]["content"] == expected
        async with recorder_of(server.root_url, tmp_path / "r") as (_, url):
            answers = [(await ask(url, model="m"))[1] for _ in range(2)]
            assert [each["choices"][0]["message"]["content"] for each in answers] == ["1", "2"]
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
async def test_recorder_repeats_a_request_that_finds_no_room(tmp_path: Path, status: int) -> None:
    async with (
        AskedServer().running() as server,
        recorder_of(server.root_url, tmp_path / "r") as (recorder, url),
    ):
        server.statuses = [status]
        assert (await ask(url, model="m"))[0] == 200
        assert len(server.requests) == 2
        assert not recorder.failure.done()
    assert len((tmp_path / "r").read_text().splitlines()) == 1


async def test_recorder_keeps_a_refusal_of_the_request_itself(tmp_path: Path) -> None:
    async with (
        AskedServer().running() as server,
        recorder_of(server.root_url, tmp_path / "r") as (recorder, url),
    ):
        server.statuses = [400]
        assert (await ask(url, model="m"))[0] == 400
        assert not recorder.failure.done()
    async with recorder_of("http://127.0.0.1:1", tmp_path / "r") as (_, url):
        assert (await ask(url, model="m"))[0] == 400


async def test_recorder_fails_at_once_if_the_key_is_refused(tmp_path: Path) -> None:
    async with (
        AskedServer().running() as server,
        recorder_of(server.root_url, tmp_path / "r") as (recorder, url),
    ):
        server.statuses = [401]
        assert (await ask(url, model="m"))[0] == 502
        assert "status 401" in recorder.failure.result()
        # A request that comes later is not sent.
        assert (await ask(url, model="m"))[0] == 502
        assert len(server.requests) == 1
    assert (tmp_path / "r").read_text() == ""


async def test_recorder_fails_if_an_answer_is_not_json(tmp_path: Path) -> None:
    async with (
        AskedServer().running() as server,
        recorder_of(server.root_url, tmp_path / "r") as (recorder, url),
    ):
        server.body = "<html>"
        assert (await ask(url, model="m"))[0] == 502
        assert "no JSON, status 200: <html>" in recorder.failure.result()


async def test_recorder_fails_if_the_server_stays_away(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    async with recorder_of(nobody, tmp_path / "r", patience_s=0) as (recorder, url):
        statuses = await asyncio.gather(ask(url, model="a"), ask(url, model="b"))
        assert [status for status, _ in statuses] == [502, 502]
        assert "did not answer" in recorder.failure.result()
