"""Runs of wrk, the usual load generator, for requests/s and latencies of whole answers."""

import asyncio
import json
import tempfile
from dataclasses import dataclass

from serval_load.client import Peer

# Prints wrk's own counts as JSON; latencies are in microseconds.
_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"us":%d,"p50":%d,"p99":%d,"bad":%d,"lost":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    e.status, e.connect + e.read + e.write + e.timeout))
end
"""


@dataclass(frozen=True)
class Rate:
    """One run with a closed loop of `connections`: each sends its next request once it has an answer."""

    connections: int
    per_s: float
    p50_ms: float
    p99_ms: float
    # Answers other than 2xx, and requests without an answer.
    bad: int


async def rate(peer: Peer, body: bytes, *, connections: int, seconds: float, cores: str) -> Rate:
    """Run wrk with `connections` for `seconds`. Raises `RuntimeError` if it fails."""
    authorization = f'wrk.headers["Authorization"] = "Bearer {peer.key}"\n' if peer.key else ""
    script = (
        f'wrk.method = "POST"\nwrk.body = {json.dumps(body.decode())}\n'
        f'wrk.headers["Content-Type"] = "application/json"\n{authorization}{_DONE}'
    )
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = [
            "taskset",
            "-c",
            cores,
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "--timeout=30s",
        ]
        command += ["-s", file.name, f"http://{peer.host}:{peer.port}/v1/chat/completions"]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output = (await process.communicate())[0].decode()
    _, found, result = output.partition("RESULT ")
    if not found:
        raise RuntimeError(f"wrk failed:\n{output}")
    told = json.loads(result)
    return Rate(
        connections=connections,
        per_s=told["requests"] / (told["us"] / 1e6),
        p50_ms=told["p50"] / 1e3,
        p99_ms=told["p99"] / 1e3,
        bad=told["bad"] + told["lost"],
    )
