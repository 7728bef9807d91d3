"""Faults of the gateway itself: killed workers, a stop under load, a full disk, a clock that jumps."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serval_load.client import Peer, exchange, prepared
from serval_load.programs import DEMO_MODEL, QUICK, process_tree, running_program, running_stand_in
from serval_testkit.load_stack import KEY, load_stack
from serval_testkit.processes import free_port

_FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


async def test_stop_under_load_finishes_running_requests_and_refuses_new_ones() -> None:
    async with load_stack() as stack:
        streams = [asyncio.create_task(stack.ask(tokens=800)) for _ in range(16)]
        await stack.generating(16)
        stack.gateway.process.send_signal(signal.SIGTERM)
        assert all(answer.complete for answer in await asyncio.gather(*streams))
        assert await asyncio.to_thread(stack.gateway.process.wait, 60) == 0
        refused = await exchange(stack.peer, stack.request())
        assert "Refused" in refused.failure
        load = await stack.engine_load()
        assert (load["num_running_reqs"], load["num_used_tokens"]) == (0, 0)


async def test_killed_worker_loses_only_its_own_streams_and_is_replaced() -> None:
    async with load_stack("--workers=2") as stack:
        streams = [asyncio.create_task(stack.ask(tokens=1500)) for _ in range(24)]
        await stack.generating(24)
        workers = _workers(stack.gateway.pid)
        victim = workers[0]
        os.kill(victim, signal.SIGKILL)
        answers = await asyncio.gather(*streams)
        lost = [answer for answer in answers if not answer.complete]
        assert 0 < len(lost) < len(answers), "the kernel deals connections out to both"
        assert not any(answer.done for answer in lost)
        async with asyncio.timeout(60):
            while len(_workers(stack.gateway.pid)) < len(workers):  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.1)
        assert all(answer.complete for answer in await stack.many(16, tokens=10))
        load = await stack.engine_load()
        assert (load["num_running_reqs"], load["num_used_tokens"]) == (0, 0)
        # The worker's requests were aborted in the engine, not finished without a client.
        assert load["counts"]["gone"] == len(lost)


def _workers(gateway: int) -> list[int]:
    """Children of the gateway that answer requests, without the helpers of multiprocessing."""
    found = []
    for pid in process_tree(gateway):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if pid != gateway and b"multiprocessing.resource_tracker" not in command:
            found.append(pid)
    return found


async def test_full_disk_under_the_log_loses_lines_but_no_answers() -> None:
    port = free_port()
    command = f"exec {sys.executable} -m serval gateway --port {port} --served-model-name stand-in"
    async with running_stand_in(*QUICK) as (_, engine_url):
        # Every write to /dev/full fails as on a full disk.
        shell = ["sh", "-c", f"{command} --engine-url {engine_url} --model {DEMO_MODEL} 2>/dev/full"]
        async with running_program("gateway", shell, environment={"SERVAL_API_KEY": KEY}) as gateway:
            peer = Peer("127.0.0.1", port, KEY)
            body = b'{"model":"stand-in","max_tokens":5,"messages":[{"role":"user","content":"?"}]}'
            statuses = []
            async with asyncio.timeout(120):
                while len(statuses) < 5:
                    assert gateway.process.poll() is None, "it did not start"
                    raw = await exchange(peer, prepared(peer, body))
                    if raw.data:
                        statuses.append(raw.data.split(b" ", 2)[1])
                    await asyncio.sleep(0.1)
            assert statuses == [b"200"] * 5
            assert gateway.process.poll() is None


def test_full_disk_under_the_key_database_is_an_error_and_keeps_existing_keys(tmp_path: Path) -> None:
    database = tmp_path / "keys.db"

    def run(action: str, *options: str, limit: int | None = None) -> "subprocess.CompletedProcess[str]":
        def shrink() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        command = [sys.executable, "-m", "serval", "keys", action, f"--database={database}", *options]
        return subprocess.run(command, check=False, capture_output=True, text=True, preexec_fn=shrink)

    assert run("create", "--name=first").returncode == 0
    full = run("create", "--name=second", limit=1024)
    assert full.returncode != 0
    assert "Traceback" not in full.stderr, full.stderr
    listed = run("list").stdout
    assert "first" in listed
    assert "second" not in listed
    assert run("create", "--name=third").returncode == 0


@pytest.mark.skipif(
    _FAKETIME is None, reason="libfaketime is not installed (Debian: apt-get install libfaketime)"
)
@pytest.mark.parametrize("step", ["+3600", "-3600"], ids=["an hour forward", "an hour back"])
async def test_clock_jump_ends_no_stream(tmp_path: Path, step: str) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0")
    # As on a real machine, the monotonic clock does not jump.
    clock = {
        "LD_PRELOAD": str(_FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with load_stack(settings={**clock, "SERVAL_ENGINE_STALL_TIMEOUT_S": "5"}) as stack:
        before = await stack.ask_whole()
        assert abs(before[1]["created"] - time.time()) < 60
        streams = [asyncio.create_task(stack.ask(tokens=800)) for _ in range(8)]
        await stack.generating(8)
        offset.write_text(step)
        assert all(answer.complete for answer in await asyncio.gather(*streams))
        status, body = await stack.ask_whole()
        assert status == 200
        # The gateway's wall clock did jump.
        assert abs(body["created"] - time.time() - int(step)) < 60
        await stack.all_free()
