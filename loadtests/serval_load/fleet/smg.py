"""Serval's gateways beside smg, SGLang's own, with its policy `cache_aware`, in front of the same engines."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from serval_load.client import Peer, exchange, prepared
from serval_load.fleet.agents import agents
from serval_load.fleet.clients import Asked, any_gateway, broken, failed, steady_load
from serval_load.fleet.finding import Finding
from serval_load.fleet.measured import COLUMNS, measure
from serval_load.fleet.stack import Engine, Fleet, running_engines, running_gateways
from serval_load.programs import Program, free_port, running_program

_READY_TIMEOUT_S = 120


@asynccontextmanager
async def running_smg(engines: Sequence[Engine], python: Path, *, count: int) -> AsyncIterator[Fleet]:
    """Run smg from the environment of `python`. It looks at engines twice a second, as Serval does."""
    command = [str(python.with_name("smg")), "launch", "--host=127.0.0.1", "--policy=cache_aware"]
    command += ["--disable-tokenizer-autoload", "--health-check-endpoint=/ready", "--log-level=warn"]
    command += ["--health-check-interval-secs=1", "--worker-urls", *(engine.url for engine in engines)]
    async with AsyncExitStack() as stack:
        gateways, peers = [], []
        for _ in range(count):
            port = free_port()
            own = [f"--port={port}", f"--prometheus-port={free_port()}"]
            program = await stack.enter_async_context(running_program("smg", [*command, *own]))
            gateways.append(program)
            peers.append(Peer("127.0.0.1", port))
        for peer, program in zip(peers, gateways, strict=True):
            await _wait_until_ready(peer, program)
        yield Fleet(engines, gateways, peers, [""])


async def _wait_until_ready(peer: Peer, program: Program) -> None:
    body = json.dumps({"model": "stand-in", "max_tokens": 1, "messages": [{"role": "user", "content": "?"}]})
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _READY_TIMEOUT_S
    while loop.time() < deadline and program.process.poll() is None:
        raw = await exchange(peer, prepared(peer, body.encode()), vanish_after_s=5)
        if raw.data.startswith(b"HTTP/1.1 200"):
            return
        await asyncio.sleep(0.2)
    raise RuntimeError(f"smg did not answer:\n{program.output.read_text(errors='replace')[-4000:]}")


async def compare_gateways(
    python: Path, *, per_s: float, seconds: float, seed: int, options: tuple[str, ...]
) -> Finding:
    """Let the same agents ask through each, then kill an engine and start it again under short questions."""
    finding = Finding(
        ("", *COLUMNS, "engine killed: requests", "never answered", "broken streams", "of these silent")
    )
    shares = {}
    async with running_engines(4, *options) as engines:
        systems: dict[str, AbstractAsyncContextManager[Fleet]] = {
            "3 Serval gateways": running_gateways(engines),
            "1 smg": running_smg(engines, python, count=1),
            "3 smg": running_smg(engines, python, count=3),
        }
        for number, (name, starting) in enumerate(systems.items()):
            async with starting as fleet:
                conversations = agents(per_s=per_s, seconds=seconds, seed=seed, texts=number)
                run = await measure(
                    conversations, any_gateway(fleet), engines=engines, gateways=fleet.gateways
                )
                shares[name] = run.found
                asked = await _killed(fleet, seed=seed)
            cut = broken(asked)
            lost = len(failed(asked))
            silent = sum(one.answer.done for one in cut)
            finding.rows.append([name, *run.cells(), len(asked), lost, len(cut), silent])
            if name == "3 Serval gateways":
                finding.expect(not lost, f"{lost} requests were not answered when an engine was killed")
    finding.expect(shares["3 Serval gateways"] >= shares["3 smg"], "smg found more with as many gateways")
    return finding


async def _killed(fleet: Fleet, *, seed: int) -> list[Asked]:
    """Kill an engine under load, and start it again."""
    victim = fleet.engines[0]
    async with steady_load(fleet.peer, per_s=10, seed=seed) as asked:
        await asyncio.sleep(2)
        await victim.kill()
        await asyncio.sleep(4)
        await victim.start()
        await asyncio.sleep(2)
    return asked
