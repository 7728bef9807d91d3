"""`serval gateway --workers N`: several processes that serve as one gateway."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from serval.settings import Settings
from serval.store.factory import open_store
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.gateway_process import GatewayProgram, gateway_program, wait_until
from serval_testkit.processes import free_port, is_running
from serval_testkit.stand_in_engine import StandInEngine

CHAT: dict[str, Any] = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}]}


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[StandInEngine]:
    async with StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as running:
        yield running


async def chat(gateway: GatewayProgram, **fields: Any) -> str:
    async with gateway.http.post(f"{gateway.url}/v1/chat/completions", json=CHAT | fields) as response:
        assert response.status == 200
        return await response.text()


async def samples(gateway: GatewayProgram) -> dict[tuple[str, ...], float]:
    async with gateway.http.get(f"{gateway.url}/metrics") as response:
        text = await response.text()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_workers_serve_one_port_and_add_up_metrics(engine: StandInEngine) -> None:
    async with gateway_program(engine.url, "--workers", "2") as gateway:
        parent = gateway.program.process.pid
        assert sum("serving checkpoint" in line for line in gateway.program.lines) == 1
        workers = gateway.workers
        assert len(workers) == 2
        await asyncio.gather(*(chat(gateway) for _ in range(40)))
        seen = Counter(len(listening_inodes(pid)) for pid in (parent, *workers))
        assert seen == {0: 1, 1: 2}  # the parent does not listen, each worker does
        for _ in range(8):  # each worker may answer
            got = await samples(gateway)
            assert got["serval_requests_total", "/v1/chat/completions", "200"] == 40
            assert got["serval_time_to_first_token_seconds_count",] == 40
            assert got["serval_requests_in_flight",] == 1
            assert got["serval_engine_up",] == 1


def listening_inodes(pid: int) -> set[str]:
    """The listening TCP sockets that the process has open."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    listening = {fields[9] for fields in map(str.split, lines) if fields[3] == "0A"}
    links = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return {inode for inode in listening if f"socket:[{inode}]" in links}


async def test_workers_killed_one_is_replaced_without_disturbing_the_others(engine: StandInEngine) -> None:
    streams = 24
    for _ in range(streams):
        engine.will_say("begin", " end", delay_s=3.0)
    async with gateway_program(engine.url, "--workers", "2") as gateway:
        before = gateway.workers
        assert (await samples(gateway))["serval_worker_restarts_total",] == 0
        victim = min(before)
        texts = [asyncio.create_task(chat(gateway, stream=True)) for _ in range(streams)]
        await wait_until(lambda: len(engine.requests) == streams)
        os.kill(victim, signal.SIGKILL)
        ends = await asyncio.gather(*texts, return_exceptions=True)
        lost = [end for end in ends if not isinstance(end, str)]
        assert all(isinstance(end, aiohttp.ClientError) for end in lost)
        whole = [end for end in ends if isinstance(end, str)]
        assert whole, "the kernel gave every stream to the worker that was killed"
        for text in whole:
            assert " end" in text
            assert text.endswith("data: [DONE]\n\n")
        # The port stays open meanwhile, and the other worker serves.
        assert "Hello" in await chat(gateway)
        await gateway.wait_for_line("worker serves again")
        after = gateway.workers
        assert len(after) == 2
        assert victim not in after
        assert before - {victim} < after
        await asyncio.gather(*(chat(gateway) for _ in range(20)))
        got = await samples(gateway)
        # Requests lost with their worker are not counted; no count is lost.
        assert got["serval_requests_total", "/v1/chat/completions", "200"] == len(whole) + 21
        assert got["serval_requests_in_flight",] == 1
        assert got["serval_worker_restarts_total",] == 1


async def test_workers_end_with_their_parent(engine: StandInEngine) -> None:
    async with gateway_program(engine.url, "--workers", "2") as gateway:
        workers = gateway.workers
        gateway.program.signal(signal.SIGKILL)
        await wait_until(lambda: not any(is_running(pid) for pid in workers))


async def test_workers_all_refuse_a_revoked_key_and_one_has_admin_api_and_metrics(
    engine: StandInEngine, tmp_path: Path
) -> None:
    database = str(tmp_path / "keys.db")
    store = open_store(Settings(key_database=database))
    record, key = store.create(name="a", scopes=["inference"])
    variables = {"SERVAL_KEY_DATABASE": database, "SERVAL_ADMIN_PORT": "0", "SERVAL_ADMIN_KEY": "admin"}
    variables["SERVAL_METRICS_PORT"] = str(metrics_port := free_port())
    async with gateway_program(engine.url, "--workers", "2", **variables) as gateway:
        listening = [len(listening_inodes(pid)) for pid in gateway.workers]
        assert sorted(listening) == [1, 3]
        for _ in range(4):  # no worker serves metrics on the API's port
            async with gateway.http.get(f"{gateway.url}/metrics") as response:
                assert response.status == 404
        async with gateway.http.get(f"http://127.0.0.1:{metrics_port}/metrics") as response:
            assert 'serval_requests_total{route="other",status="404"} 4.0' in await response.text()
        headers = {"authorization": f"Bearer {key}"}

        async def statuses() -> set[int]:
            async def status() -> int:
                async with gateway.http.get(f"{gateway.url}/v1/models", headers=headers) as response:
                    return response.status

            return set(await asyncio.gather(*(status() for _ in range(20))))

        assert await statuses() == {200}
        await asyncio.to_thread(store.revoke, record.id)
        async with asyncio.timeout(120):
            while await statuses() != {401}:
                pass


async def test_workers_report_a_bad_model_folder_without_an_engine(tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(AssertionError, match=r"cannot read .*tokenizer\.json"):
        async with gateway_program(nobody, "--workers", "2", "--model", str(tmp_path)):
            pass


async def test_workers_start_failure_is_one_error_of_the_gateway() -> None:
    async with StandInEngine(model_path="org/model").running() as engine:
        with pytest.raises(AssertionError, match="ended with 1") as ended:
            async with gateway_program(engine.url, "--workers", "2"):
                pass
    assert str(ended.value).count("name the folder with the model's tokenizer") == 1
    assert "Traceback" not in str(ended.value)


async def test_workers_share_several_engines(engine: StandInEngine) -> None:
    async with StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as other:
        options = ("--workers", "2", "--engine-url", engine.url, "--engine-url", other.url)
        # Options win over the variable.
        async with gateway_program("http://127.0.0.1:9", *options) as gateway:
            (line,) = [line for line in gateway.program.lines if "gateway: engines: " in line]
            names = [one.url.removeprefix("http://") for one in (engine, other)]
            assert line.endswith(f"engines: {names[0]} ready, {names[1]} ready")
            questions = [[{"role": "user", "content": f"Question {number}"}] for number in range(10)]
            for messages in questions * 4:  # each worker may answer
                await chat(gateway, messages=messages)
            homes = [{tuple(body["input_ids"]) for body in one.requests} for one in (engine, other)]
            assert sum(map(len, homes)) == len(questions)  # no conversation was at both
            assert all(homes)
            got = await samples(gateway)
            assert got["serval_engine_up",] == 1
            sent = {name: got["serval_place_requests_total", "finished", name] for name in names}
            assert sent == {name: len(one.requests) for name, one in zip(names, (engine, other), strict=True)}
