"""`serval serve --workers N`: engine and gateway as one program, with a stand-in for the engine."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.gateway_process import wait_until
from serval_testkit.launcher import with_stand_in
from serval_testkit.processes import Program, descendants, free_port, is_running, running

ROOT = Path(__file__).resolve().parents[3]
CHAT = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}]}


def workers_of(program: Program) -> set[int]:
    return {
        pid
        for pid in descendants(program.process.pid)
        if b"serval.process.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    }


async def chats(url: str, key: str, number: int) -> set[int]:
    """The statuses of `number` concurrent chats, each on a connection of its own."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers, connector=connector) as http:

        async def status() -> int:
            async with http.post(f"{url}/chat/completions", json=CHAT) as response:
                await response.read()
                return response.status

        return set(await asyncio.gather(*(status() for _ in range(number))))


async def until_answered(url: str, chats: int) -> None:
    """Wait until every worker reports `chats` answers with 200: they are counted after the answer."""
    async with asyncio.timeout(60):
        while await answered(url) != {chats}:
            pass


async def answered(url: str) -> set[float]:
    """The numbers of answers with 200 that the workers report."""
    numbers = set()
    for _ in range(6):
        async with aiohttp.ClientSession() as http, http.get(url.removesuffix("/v1") + "/metrics") as page:
            text = await page.text()
        numbers |= {
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "serval_requests_total" and sample.labels["status"] == "200"
            and sample.labels["route"] == "/v1/chat/completions"
        }  # fmt: skip
    return numbers


async def test_serve_replaces_a_killed_worker_adds_up_metrics_and_stops(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("one\n")
    argv = [sys.executable, "-m", "serval", "serve", "--model", str(DEMO_CHECKPOINT), "--workers", "2"]
    argv += ["--port", str(free_port()), "--api-key-file", str(keys)]
    with running(argv, cwd=ROOT, environment=with_stand_in(tmp_path)) as program:
        ready = await asyncio.to_thread(
            program.wait_for_line, lambda line: line.startswith("serval ready"), timeout_s=180
        )
        url = ready.split("url=")[1].split()[0]
        workers = workers_of(program)
        assert len(workers) == 2
        assert await chats(url, "one", 20) == {200}
        await until_answered(url, 20)

        victim = min(workers)
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(
            program.wait_for_line, lambda line: "worker serves again" in line, timeout_s=180
        )
        assert len(workers_of(program)) == 2
        assert victim not in workers_of(program)
        assert await chats(url, "one", 20) == {200}
        await until_answered(url, 40)

        # The program forwards SIGHUP to its gateway.
        keys.write_text("two\n")
        program.signal(signal.SIGHUP)
        await asyncio.to_thread(
            program.wait_for_line, lambda line: "settings read again" in line, timeout_s=60
        )
        async with asyncio.timeout(60):
            while await chats(url, "one", 10) != {401}:
                pass
        started = descendants(program.process.pid)
        program.signal(signal.SIGTERM)
        assert await asyncio.to_thread(program.wait, timeout_s=120) == 0
        await wait_until(lambda: not any(map(is_running, started)))


async def test_serve_starts_no_engine_for_a_gateway_that_cannot_start(tmp_path: Path) -> None:
    model = Path(shutil.copytree(DEMO_CHECKPOINT, tmp_path / "model"))
    (model / "chat_template.jinja").unlink()
    argv = [sys.executable, "-m", "serval", "serve", "--model", str(model), "--workers", "2"]
    environment = with_stand_in(tmp_path)
    with running([*argv, "--port", str(free_port())], cwd=ROOT, environment=environment) as program:
        assert await asyncio.to_thread(program.wait, timeout_s=120) == 1
    assert "serval serve: error: " in program.output
    assert "has no chat template" in program.output
    assert "engine started" not in program.output
