"""Checks of the running stack in the rehearsal: `check.py COMPOSE-COMMAND...`, beside the published ports."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from serval_testkit.metric_names import DEPLOY
from serval_testkit.prometheus import Prometheus
from serval_testkit.seen_by_prometheus import missing_under_load
from serval_testkit.weather_tool import WEATHER_TOOL

PROXY = "https://localhost"
MODEL = "longcat-flash-lite-demo"
# Ten times the longest wait on two quiet cores.
WAIT_S = 600
STREAMS = 50
BEGUN = time.monotonic()
PICTURES = os.environ.get("REHEARSAL_PICTURES")
PICTURE_S = 180
NO_HTTP = (
    "import socket; s = socket.create_connection(('127.0.0.1', 8000));"
    " s.sendall(b'not HTTP\\r\\n\\r\\n'); s.recv(999)"
)


def command(compose: Sequence[str], *arguments: str, check: bool = True) -> str:
    """Run Compose and return its output."""
    done = subprocess.run([*compose, *arguments], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def inside(compose: Sequence[str], service: str, *arguments: str, check: bool = True) -> str:
    """Run a command in a service's container and return its output."""
    return command(compose, "exec", "-T", service, *arguments, check=check)


def on_postgres(compose: Sequence[str], program: str, *arguments: str, given: bytes = b"") -> bytes:
    """Run one of PostgreSQL's programs beside the server, as in deploy/backup.md, and return its output."""
    argv = [*compose, "exec", "-T", "postgres", program, "--username=serval", *arguments]
    return subprocess.run(argv, input=given, capture_output=True, check=True).stdout


async def until(what: str, question: Any) -> None:
    """Wait until `question` is true."""
    deadline = time.monotonic() + WAIT_S
    while not await asyncio.to_thread(question):
        assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what}"
        await asyncio.sleep(1)
    say(what)


def say(what: str) -> None:
    print(f"ok ({time.monotonic() - BEGUN:3.0f} s): {what}", flush=True)


def client(key: str) -> aiohttp.ClientSession:
    """HTTP client for the proxy, whose certificate is self-signed."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    return aiohttp.ClientSession(
        headers={"authorization": f"Bearer {key}"},
        connector=aiohttp.TCPConnector(ssl=trusting, limit=0),
        timeout=aiohttp.ClientTimeout(total=WAIT_S),
    )


async def events(response: aiohttp.ClientResponse) -> list[tuple[float, dict[str, Any]]]:
    """Chunks of a stream with their times. The stream must end with `[DONE]`, as OpenAI's do."""
    found = []
    last = b""
    async for line in response.content:
        if line.startswith(b"data: {"):
            found.append((time.monotonic(), json.loads(line.removeprefix(b"data: "))))
        last = line.strip() or last
    assert last == b"data: [DONE]", last
    assert "error" not in found[-1][1], found[-1]
    return found


async def ask(session: aiohttp.ClientSession, question: str, **options: Any) -> aiohttp.ClientResponse:
    """Request a streamed chat completion."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "temperature": 0,
        "max_completion_tokens": 100,
        **options,
    }
    return await session.post(f"{PROXY}/v1/chat/completions", json=body)


async def tool_call(session: aiohttp.ClientSession) -> None:
    """Check a tool call through the proxy: correct, and in pieces that arrive one after another."""
    response = await ask(session, "What is the weather in Paris for the next 3 days?", tools=[WEATHER_TOOL])
    chunks = await events(response)
    pieces = [
        piece
        for _, chunk in chunks
        for choice in chunk["choices"]
        for piece in choice["delta"].get("tool_calls", [])
    ]
    arguments = "".join(piece["function"].get("arguments", "") for piece in pieces)
    assert pieces[0]["function"]["name"] == "get_weather", pieces
    assert json.loads(arguments) == {"city": "Paris", "days": 3}, arguments
    times = {moment for moment, _ in chunks}
    assert len(times) > 3, "the call came in one piece"
    say(f"a streamed tool call through the proxy, {len(pieces)} pieces")


async def keys(compose: Sequence[str]) -> None:
    """Check that a key in PostgreSQL is accepted until it is revoked, and again after a restore."""

    def serval_keys(*arguments: str) -> str:
        return inside(compose, "gateway-demo", "serval", "keys", *arguments)

    made = json.loads(serval_keys("create", "--name=x", "--json"))
    dump = on_postgres(compose, "pg_dump", "--format=custom", "serval")
    async with client(made["key"]) as session:

        async def becomes(wanted: int) -> None:
            deadline = time.monotonic() + WAIT_S
            status = 0
            while status != wanted:
                assert time.monotonic() < deadline, (status, wanted)
                await asyncio.sleep(0.2)
                async with session.get(f"{PROXY}/v1/models") as response:
                    status = response.status

        await becomes(200)
        serval_keys("revoke", made["id"])
        await becomes(401)
        how = ("--dbname=serval", "--clean", "--if-exists", "--exit-on-error", "--single-transaction")
        on_postgres(compose, "pg_restore", *how, given=dump)
        await becomes(200)
    say("a key in PostgreSQL is made, revoked, and restored from a backup")


async def limits(compose: Sequence[str]) -> None:
    """Check that a key's limit is counted in Redis."""
    how = ("create", "--name=y", "--json", "--requests-per-minute=2")
    made = json.loads(inside(compose, "gateway-demo", "serval", "keys", *how))
    async with client(made["key"]) as session:
        statuses: list[int] = []
        deadline = time.monotonic() + WAIT_S
        while statuses[-1:] != [429]:
            assert time.monotonic() < deadline, statuses
            response = await ask(session, "Hello", max_completion_tokens=1)
            await response.read()
            # 401 until the gateway has read the new key.
            statuses.append(response.status)
    assert statuses.count(200) >= 2, statuses
    assert inside(compose, "redis", "redis-cli", "--scan").strip()
    say("a key's limit is counted in Redis")


def hardened(compose: Sequence[str]) -> None:
    """Check that services cannot write to their root, and reach only what they need."""
    for service in ("proxy", "alertmanager", "postgres"):
        probe = "import socket; socket.gethostbyname('engine')"
        assert "gaierror" in inside(compose, service, "python3", "-c", probe, check=False)
    probe = "import urllib.request as u; u.urlopen('http://engine:30000/server_info', timeout=20)"
    assert "HTTP Error 401" in inside(compose, "prometheus", "python3", "-c", probe, check=False)
    for service in ("postgres", "redis"):
        probe = f"import socket; socket.gethostbyname('{service}')"
        assert "gaierror" in inside(compose, "engine-demo", "python", "-c", probe, check=False)
        inside(compose, "gateway-demo", "python", "-c", probe)
    for service in ("gateway-demo", "engine-demo"):
        assert inside(compose, service, "id", "-u").strip() == "10001"
        probe = "import pathlib; pathlib.Path('/opt/serval/x').write_text('')"
        assert "Read-only file system" in inside(compose, service, "python", "-c", probe, check=False)
    say("user 10001, read-only root; the engine has a key, and no way to the databases or from the proxy")


def cuda_extension(compose: Sequence[str]) -> None:
    """Check that one of SGLang's CUDA extensions builds, links and loads in the engine's container."""
    program = Path(__file__).with_name("build_extension.py").read_text()
    built = inside(compose, "engine-demo", "python", "-P", "-c", program)
    assert "/var/cache/serval/.cache/sglang/jit/sm90a/" in built, built
    say("SGLang's activation kernels are compiled for Hopper by the engine's user, in the volume")


async def dashboards(compose: Sequence[str], session: aiohttp.ClientSession) -> None:
    """Check that every query of the dashboards finds data under load, and every metric is scraped."""
    address = inside(compose, "prometheus", "hostname", "-i").split()[0]

    async def ask_on_and_on() -> None:
        while True:
            for question in ("What is Serval?", "What is the weather in Paris for the next 3 days?"):
                await events(await ask(session, question, tools=[WEATHER_TOOL], max_completion_tokens=48))
            # Series that appear only after errors.
            async with session.get(f"{PROXY}/v1/models", headers={"authorization": "x"}) as response:
                assert response.status == 401
            inside(compose, "gateway-demo", "python", "-c", NO_HTTP)

    asking = asyncio.create_task(ask_on_and_on())
    try:
        missing = await missing_under_load(Prometheus(f"http://{address}:9090"), wait_s=WAIT_S)
        if not missing and PICTURES:
            await draw(f"http://{address}:9090", Path(PICTURES))
    finally:
        asking.cancel()
        (ended,) = await asyncio.gather(asking, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError), ended
    assert not missing, missing
    say("every query of the dashboards finds data, every metric that is read was scraped")


async def draw(prometheus: str, folder: Path) -> None:
    """Draw the dashboards after more time under load."""
    await asyncio.sleep(PICTURE_S)
    script = DEPLOY / "grafana/draw_dashboards.py"
    command_line = (sys.executable, script, prometheus, folder, f"{PICTURE_S / 60:g}")
    process = await asyncio.create_subprocess_exec(*map(str, command_line))
    assert await process.wait() == 0
    say(f"the dashboards are drawn in {folder}")


async def told_to_stop(gateway: str) -> None:
    """Wait until the gateway reports that it is stopping, or refuses connections."""
    deadline = time.monotonic() + WAIT_S
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        while True:
            try:
                async with session.get(f"{gateway}/readyz") as response:
                    if response.status == 503 and "being stopped" in await response.text():
                        return
            except aiohttp.ClientConnectionError:
                return
            assert time.monotonic() < deadline, "the gateway was told to stop and is still ready"
            await asyncio.sleep(0.1)


async def drain(compose: Sequence[str], session: aiohttp.ClientSession) -> None:
    """Check that a gateway stopped in the middle of fifty answers completes them all."""
    find = "import socket; print(socket.gethostbyname(socket.gethostname()))"
    gateway = f"http://{inside(compose, 'gateway-demo', 'python', '-c', find).strip()}:8000"
    # Short, so that a demo engine on two cores begins the last answer before the gateway's queue times out.
    options = {"temperature": 1.5, "max_completion_tokens": 24}
    responses = await asyncio.gather(*(ask(session, "What is Serval?", **options) for _ in range(STREAMS)))
    assert {response.status for response in responses} == {200}
    readers = [asyncio.create_task(events(response)) for response in responses]
    stopping = asyncio.create_task(asyncio.to_thread(command, compose, "stop", "gateway-demo"))
    await told_to_stop(gateway)
    open_then = sum(not reader.done() for reader in readers)
    assert open_then > STREAMS / 2, f"only {open_then} streams were left to drain"
    for chunks in await asyncio.gather(*readers):
        assert [c["finish_reason"] for _, chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    await stopping
    state = command(compose, "ps", "--all", "--format", "{{.Service}} {{.ExitCode}}")
    assert "gateway-demo 0" in state, state
    say(f"a stopped gateway finished {STREAMS} answers, {open_then} of them after SIGTERM, and exits with 0")


async def main(key: str, compose: Sequence[str]) -> None:
    """Run every check in turn, up to the first failure."""
    async with client(key) as session:
        await tool_call(session)
        await keys(compose)
        await limits(compose)
        hardened(compose)
        await asyncio.to_thread(cuda_extension, compose)

        def prometheus_says(query: str, wanted: str) -> bool:
            query_command = ["promtool", "query", "instant", "http://127.0.0.1:9090", query]
            return wanted in inside(compose, "prometheus", *query_command)

        await until("Prometheus scrapes its four targets", lambda: prometheus_says("sum(up)", "=> 4 @"))
        await until(
            "Prometheus counts the engine's tokens",
            lambda: prometheus_says("sum(sglang:generation_tokens_total) > bool 0", "=> 1 @"),
        )
        await dashboards(compose, session)
        await drain(compose, session)
    await until(
        "the pager has the alert of the stopped gateway",
        lambda: "ServalGatewayDown firing pager" in command(compose, "logs", "--no-log-prefix", "pager"),
    )
    command(compose, "stop", "engine-demo")
    state = command(compose, "ps", "--all", "--format", "{{.Service}} {{.ExitCode}}")
    assert "engine-demo 0" in state, state
    say("a stopped engine exits with 0")


if __name__ == "__main__":
    asyncio.run(main(Path(os.environ["SERVAL_KEYS_FILE"]).read_text().strip(), sys.argv[1:]))
