"""Engine and gateway as one server, with small stand-in programs for both."""

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from serval.errors import StackError
from serval.process.child import ProcessSpec
from serval.process.stack import StackSpec, run_stack
from serval_testkit.gateway_process import wait_until
from serval_testkit.processes import free_port

STAND_IN_SERVER = textwrap.dedent(
    """
    import http.server, pathlib, signal, subprocess, sys
    port, log, name = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/die":
                print("Error: asked to die", flush=True)
                sys.stdout.flush()
                import os; os._exit(7)
            self.send_response(200); self.end_headers()
    def stop(number, frame):
        with log.open("a") as out: out.write(f"{name} stopped\\n")
        sys.exit(0)
    def hangup(number, frame):
        with log.open("a") as out: out.write(f"{name} read again\\n")
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, hangup)
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with log.open("a") as out: out.write(f"{name} grandchild {grandchild.pid}\\n")
    http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
    """
)


def stand_in(name: str, code: str, *arguments: str) -> ProcessSpec:
    return ProcessSpec(name=name, argv=[sys.executable, "-c", code, *arguments], environment=dict(os.environ))


def stack(
    log: Path,
    *,
    engine_code: str = STAND_IN_SERVER,
    engine_start_timeout_s: float = 30.0,
    engines: tuple[str, ...] = ("engine",),
) -> StackSpec:
    ports, gateway_port = [free_port() for _ in engines], free_port()
    return StackSpec(
        engines=[
            stand_in(name, engine_code, str(port), str(log), name)
            for name, port in zip(engines, ports, strict=True)
        ],
        engine_ready_urls=[f"http://127.0.0.1:{port}/health" for port in ports],
        engine_start_timeout_s=engine_start_timeout_s,
        gateway=stand_in("gateway", STAND_IN_SERVER, str(gateway_port), str(log), "gateway"),
        gateway_ready_url=f"http://127.0.0.1:{gateway_port}/readyz",
        gateway_grace_s=10.0,
    )


def signal_self(number: int) -> Callable[[], Awaitable[None]]:
    async def on_ready() -> None:
        os.kill(os.getpid(), number)

    return on_ready


async def ask_to_die(url: str) -> None:
    host, port = url.split("/")[2].split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /die HTTP/1.0\r\n\r\n")
    await writer.drain()
    writer.close()


async def do_nothing() -> None:
    pass


def is_running(pid: int) -> bool:
    try:
        return "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def grandchildren(log: Path) -> list[int]:
    return [int(line.split()[-1]) for line in log.read_text().splitlines() if "grandchild" in line]


async def assert_grandchildren_gone(log: Path) -> None:
    pids = grandchildren(log)
    assert pids
    for _ in range(100):
        if not any(map(is_running, pids)):
            return
        await asyncio.sleep(0.05)
    pytest.fail(f"processes left behind: {[pid for pid in pids if is_running(pid)]}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_run_stack_signal_stops_gateway_then_engine_and_all_descendants(
    tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    assert await run_stack(stack(log), on_ready=signal_self(number)) == 0
    stops = [line for line in log.read_text().splitlines() if line.endswith("stopped")]
    assert stops == ["gateway stopped", "engine stopped"]
    await assert_grandchildren_gone(log)


async def test_run_stack_starts_the_gateway_beside_the_engine(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    wait_for_gateway = """
import pathlib, sys, time
while "gateway" not in pathlib.Path(sys.argv[2]).read_text():
    time.sleep(0.05)
"""
    spec = stack(log, engine_code=wait_for_gateway + STAND_IN_SERVER)
    assert await run_stack(spec, on_ready=signal_self(signal.SIGTERM)) == 0


async def test_run_stack_hangup_is_forwarded_to_the_gateway_only(tmp_path: Path) -> None:
    log = tmp_path / "log"

    async def hang_up_and_stop() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await wait_until(lambda: "read again" in log.read_text())
        os.kill(os.getpid(), signal.SIGTERM)

    assert await run_stack(stack(log), on_ready=hang_up_and_stop) == 0
    assert [line for line in log.read_text().splitlines() if "again" in line] == ["gateway read again"]


async def test_run_stack_engine_start_failure_is_reported_with_its_reason(tmp_path: Path) -> None:
    code = "import sys; print('loading'); print('ValueError: no such tensor'); print('bye'); sys.exit(3)"
    with pytest.raises(StackError, match=r"engine exited with code 3: ValueError: no such tensor"):
        await run_stack(stack(tmp_path / "log", engine_code=code), on_ready=do_nothing)


async def test_run_stack_engine_that_never_answers_times_out(tmp_path: Path) -> None:
    spec = stack(tmp_path / "log", engine_code="import time; time.sleep(600)", engine_start_timeout_s=1.0)
    with pytest.raises(StackError, match=r"not ready after 1 s .* a longer --engine-timeout"):
        await run_stack(spec, on_ready=do_nothing)


async def test_run_stack_engine_death_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    log = tmp_path / "log"
    spec = stack(log)

    async def make_the_engine_die() -> None:
        await ask_to_die(spec.engine_ready_urls[0])

    with pytest.raises(StackError, match=r"engine exited with code 7: Error: asked to die"):
        await run_stack(spec, on_ready=make_the_engine_die)
    assert "gateway stopped" in log.read_text()
    await assert_grandchildren_gone(log)


async def test_run_stack_signal_during_start_stops_at_once(tmp_path: Path) -> None:
    spec = stack(tmp_path / "log", engine_code="import time; time.sleep(600)")
    asyncio.get_running_loop().call_later(0.5, os.kill, os.getpid(), signal.SIGTERM)
    assert await run_stack(spec, on_ready=do_nothing) == 0


async def test_run_stack_with_several_engines_waits_for_all_and_stops_all(tmp_path: Path) -> None:
    log = tmp_path / "log"
    wait_for_gateway = """
import pathlib, sys, time, urllib.request
url = pathlib.Path(sys.argv[2] + ".gateway").read_text()
while sys.argv[3] == "engine 1":
    try:
        urllib.request.urlopen(url)
        time.sleep(0.5)
        break
    except OSError:
        time.sleep(0.05)
"""
    names = ("engine 0", "engine 1", "engine 2")
    spec = stack(log, engine_code=wait_for_gateway + STAND_IN_SERVER, engines=names)
    log.with_name("log.gateway").write_text(spec.gateway_ready_url)

    async def check_and_stop() -> None:
        async with aiohttp.ClientSession() as http:
            for url in spec.engine_ready_urls:
                async with http.get(url) as response:
                    assert response.status == 200
        os.kill(os.getpid(), signal.SIGINT)

    assert await run_stack(spec, on_ready=check_and_stop) == 0
    first, *others = [line for line in log.read_text().splitlines() if line.endswith("stopped")]
    assert first == "gateway stopped"
    assert sorted(others) == [f"engine {number} stopped" for number in range(3)]
    await assert_grandchildren_gone(log)


async def test_run_stack_names_the_engine_that_failed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    spec = stack(log, engines=("engine 0", "engine 1"))
    with pytest.raises(StackError, match=r"^engine 1 exited with code 7: Error: asked to die") as failed:
        await run_stack(spec, on_ready=lambda: ask_to_die(spec.engine_ready_urls[1]))
    assert failed.value.process == "engine 1"
    assert "engine 0 stopped" in log.read_text()
    await assert_grandchildren_gone(log)
