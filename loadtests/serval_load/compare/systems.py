"""Systems under comparison: each gateway is started as its own documentation says."""

import asyncio
import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from serval_load.client import Peer, exchange, prepared
from serval_load.programs import SERVER, Program, free_port, running_gateway, running_program

# LiteLLM takes 40 s of CPU to import.
_READY_TIMEOUT_S = 300


# Limits that are counted with each request and never reached.
UNREACHED_LIMITS = dict.fromkeys(
    (
        "SERVAL_REQUESTS_PER_MINUTE",
        "SERVAL_TOKENS_PER_MINUTE",
        "SERVAL_CONCURRENT_REQUESTS",
        "SERVAL_TOKENS_PER_DAY",
    ),
    "1000000000",
)


@dataclass(frozen=True)
class System:
    """A running gateway; `program` is None where clients use the stand-in directly."""

    name: str
    version: str
    peer: Peer
    program: Program | None


@asynccontextmanager
async def direct(engine_url: str, cores: str) -> AsyncIterator[System]:
    """No gateway: the limit of the stand-in and the clients themselves."""
    yield System("direct", "", Peer.of(engine_url), None)


@asynccontextmanager
async def serval(engine_url: str, cores: str, python: Path) -> AsyncIterator[System]:
    """Serval with one worker and all features on: keys in a database, checks, limits, metrics and log.

    `python` belongs to an environment with the gateway's packages; the gateway is that of this checkout.
    """
    with tempfile.TemporaryDirectory(prefix="serval-load-") as folder:
        database = f"{folder}/keys.db"
        environment = {"SERVAL_KEY_DATABASE": database, "PYTHONPATH": str(SERVER), **UNREACHED_LIMITS}
        key = await asyncio.to_thread(new_key, database)
        starting = running_gateway(engine_url, environment=environment, cores=cores, python=python)
        async with starting as (program, url):
            yield System("serval", version("serval-llm"), Peer.of(url, key), program)


@asynccontextmanager
async def sglang_router(engine_url: str, cores: str, python: Path) -> AsyncIterator[System]:
    """SGLang's router as shipped, with a key, in front of one worker."""
    port, key = free_port(), f"sk-{secrets.token_hex(8)}"
    command = [str(python), "-m", "sglang_router.launch_router", "--host=127.0.0.1", f"--port={port}"]
    command += [f"--prometheus-port={free_port()}", "--worker-urls", engine_url, "--api-key", key]
    async with running_program("sglang-router", command, cores=cores) as program:
        peer = Peer("127.0.0.1", port, key)
        await _wait_until_ready(peer, program)
        yield System("sglang-router", installed_version(python, "sglang-router"), peer, program)


@asynccontextmanager
async def litellm(engine_url: str, cores: str, python: Path) -> AsyncIterator[System]:
    """LiteLLM's proxy, one worker, production mode, a master key and no database."""
    port, key = free_port(), f"sk-{secrets.token_hex(8)}"
    model = {"model": "openai/stand-in", "api_base": f"{engine_url}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "stand-in", "litellm_params": model}],
        "general_settings": {"master_key": key},
        "litellm_settings": {"telemetry": False, "drop_params": False},
    }
    environment = {
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "DISABLE_ADMIN_UI": "True",
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)  # JSON is YAML
        file.flush()
        command = [str(python.with_name("litellm")), "--config", file.name, "--host", "127.0.0.1"]
        command += ["--port", str(port), "--num_workers", "1"]
        async with running_program("litellm", command, environment=environment, cores=cores) as program:
            peer = Peer("127.0.0.1", port, key)
            await _wait_until_ready(peer, program)
            yield System("litellm", installed_version(python, "litellm"), peer, program)


def new_key(database: str, *options: str) -> str:
    """Create a key in a Serval database with `options` of `serval keys create`."""
    command = [sys.executable, "-m", "serval", "keys", "create", "--name=load", "--json", *options]
    made = subprocess.run([*command, f"--database={database}"], capture_output=True, check=True)
    key: str = json.loads(made.stdout)["key"]
    return key


def installed_version(python: Path, package: str) -> str:
    """Version of `package` in the environment of `python`."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return found.stdout.strip()


async def _wait_until_ready(peer: Peer, program: Program) -> None:
    """Wait until a small request gets an answer. Raises `RuntimeError`."""
    body = json.dumps({"model": "stand-in", "max_tokens": 1, "messages": [{"role": "user", "content": "?"}]})
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _READY_TIMEOUT_S
    raw = None
    while loop.time() < deadline and program.process.poll() is None:
        raw = await exchange(peer, prepared(peer, body.encode()), vanish_after_s=10)
        if raw.data.startswith(b"HTTP/1.1 200"):
            return
        await asyncio.sleep(0.5)
    said = program.output.read_text(errors="replace")[-4000:]
    raise RuntimeError(f"{program.name} did not answer: {raw.data[:500] if raw else b''!r}\n{said}")
