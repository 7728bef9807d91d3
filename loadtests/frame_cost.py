"""CPU time the gateway spends on one streamed frame, for one or more checkouts of it in turn.

    python loadtests/frame_cost.py                                 this checkout
    python loadtests/frame_cost.py --tree /tmp/before --tree .     two checkouts, alternately, and their ratio

Beside the gateway run, in this process, an engine stand-in that sends one frame of SGLang's size and shape
every `--pace` seconds on each stream, and the clients. Only the gateway's own CPU time is counted (user and
system, from /proc). Streams start one after the other and drift apart, as real ones do; frames that the
gateway happens to find together count one by one. Beside other work on the same core the figures are higher
(cold caches); only those of one run compare.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import uvloop

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "model_adapter/serval_sglang/demo/checkpoint"
KEY = "sk-frame-cost"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def frame(rid: str, number: int, *, last: bool) -> bytes:
    """One event as SGLang 0.5.23 sends it for one token."""
    meta = {
        "id": rid,
        "finish_reason": {"type": "stop", "matched": 2} if last else None,
        "prompt_tokens": 812,
        "weight_version": "default",
        "total_retractions": 0,
        "completion_tokens": number + 1,
        "cached_tokens": 768,
        "cached_tokens_details": None,
        "dp_rank": None,
        "reasoning_tokens": 0,
    }
    body = {"text": " token", "output_ids": [number % 1000], "meta_info": meta}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def chunk(data: bytes) -> bytes:
    """`data` as one chunk of HTTP's chunked encoding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Engine:
    """The stand-in: what the gateway asks at start-up, and `/generate`."""

    def __init__(self, *, frames: int, pace_s: float) -> None:
        self._frames = frames
        self._pace_s = pace_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode()
                length = next(
                    (
                        int(line[15:])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length:")
                    ),
                    0,
                )
                body = await reader.readexactly(length)
                if path == "/generate":
                    await self._generate(writer, json.loads(body)["rid"])
                else:
                    answer = json.dumps(_ABOUT.get(path, {})).encode()
                    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
                    writer.write(head % len(answer) + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _generate(self, writer: asyncio.StreamWriter, rid: str) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        for number in range(self._frames):
            writer.write(chunk(frame(rid, number, last=number == self._frames - 1)))
            await asyncio.sleep(self._pace_s)
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()


_ABOUT = {
    "/model_info": {"model_path": str(MODEL)},
    "/server_info": {"max_req_input_len": 8000, "incremental_streaming_output": True},
    "/v1/models": {"data": [{"id": "m", "max_model_len": 8192}]},
}


async def stream(port: int) -> int:
    """Ask for one streamed answer and read it to its end; the number of its content frames."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "What is Serval?"}]}
    body = json.dumps(request).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        % (KEY.encode(), len(body))
        + body
    )
    received = await reader.read()
    writer.close()
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), received[-300:]
    return received.count(b" token")


def start(command: list[str], environment: dict[str, str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
    """The program, with its standard error in `log`."""
    return subprocess.Popen(command, env=environment, stderr=log)


def resident_mb(pid: int) -> float:
    """Memory the process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of the process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@dataclass(frozen=True)
class Measurement:
    """Microseconds of the gateway's CPU for each frame; `resident_mb` at the end."""

    per_frame_us: float
    resident_mb: float


async def measure(tree: Path, options: argparse.Namespace) -> Measurement:
    """Start the gateway of `tree`, warm it up, then run all streams at once."""
    engine = Engine(frames=options.frames, pace_s=options.pace)
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    engine_port = server.sockets[0].getsockname()[1]
    command = [sys.executable, "-m", "serval", "gateway", f"--engine-url=http://127.0.0.1:{engine_port}"]
    command += [f"--model={MODEL}", "--served-model-name=m", "--port=0"]
    environment = {**os.environ, "PYTHONPATH": str(tree / "server"), "SERVAL_API_KEY": KEY}
    with tempfile.TemporaryFile() as log:
        gateway = start(command, environment, log)
        try:
            port = await listening_port(gateway, log)
            await stream(port)
            before = cpu_seconds(gateway.pid)
            running = []
            for _ in range(options.streams):
                running.append(asyncio.create_task(stream(port)))
                await asyncio.sleep(options.pace / 7)
            frames = sum(await asyncio.gather(*running))
            spent_s = cpu_seconds(gateway.pid) - before
            memory_mb = resident_mb(gateway.pid)
        finally:
            gateway.terminate()
            gateway.wait(30)
            server.close()
    assert frames == options.streams * options.frames, "frames were lost"
    return Measurement(spent_s / frames * 1e6, memory_mb)


async def listening_port(gateway: "subprocess.Popen[bytes]", log: IO[bytes]) -> int:
    """The port from the gateway's own line, `serving ... on http://127.0.0.1:PORT`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and gateway.poll() is None:
        log.seek(0)
        for line in log.read().decode().splitlines():
            if " on http://" in line:
                return int(line.rpartition(":")[2])
        await asyncio.sleep(0.1)
    log.seek(0)
    raise SystemExit(f"the gateway did not start:\n{log.read().decode()}")


def comparison_parser(description: str | None) -> argparse.ArgumentParser:
    """Options of a comparison of checkouts: `--tree`, which may be given again, and `--rounds`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tree",
        type=lambda given: Path(given).resolve(),
        action="append",
        help="checkout to measure (default: this one)",
    )
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one line a tree."""
    parser = comparison_parser(__doc__)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--frames", type=int, default=200, help="frames of each stream")
    parser.add_argument("--pace", type=float, default=0.02, help="seconds between two frames of a stream")
    options = parser.parse_args(arguments)
    trees = options.tree or [ROOT]
    found: dict[Path, list[Measurement]] = {tree: [] for tree in trees}
    for number in range(options.rounds):
        for tree in trees:
            result = uvloop.run(measure(tree, options))
            found[tree].append(result)
            print(
                f"round {number + 1} {tree}: {result.per_frame_us:.1f} us a frame,"
                f" {result.resident_mb:.0f} MB",
                flush=True,
            )
    medians = [statistics.median(one.per_frame_us for one in found[tree]) for tree in trees]
    for tree, median in zip(trees, medians, strict=True):
        print(f"median {tree}: {median:.1f} us a frame, {medians[0] / median:.2f} x less than the first tree")


if __name__ == "__main__":
    main()
