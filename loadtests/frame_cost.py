"""CPU time the gateway spends on one streamed frame, for one or more checkouts of it in turn.

    python loadtests/frame_cost.py                                 this checkout
    python loadtests/frame_cost.py --tree /tmp/before --tree .     two checkouts, alternately, and their ratio

The clients and an engine stand-in run in this process. On each stream the stand-in sends one frame of
SGLang's size and shape every `--pace` seconds. Only the gateway's own CPU time is counted (user and system,
from /proc). Streams start one after the other and drift apart, as real ones do; frames that the gateway reads
together count one by one. Other work on the same core raises the figures (cold caches), so compare only
figures of one run.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from checkouts import ABOUT, PROMPT, Gateway, chunk, compare, comparison_parser, event, running_gateway


class Engine:
    """Engine stand-in: the endpoints the gateway reads at start-up, and `/generate`."""

    def __init__(self, *, frames: int, pace_s: float) -> None:
        self._frames = frames
        self._pace_s = pace_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, request after request."""
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
                    answer = json.dumps(ABOUT.get(path, {})).encode()
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
            writer.write(chunk(event(rid, number, last=number == self._frames - 1)))
            await asyncio.sleep(self._pace_s)
        writer.write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()


async def stream(gateway: Gateway) -> int:
    """Read one streamed answer to its end; return the number of its content frames."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    request = {"model": "m", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}
    body = json.dumps(request).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        % (gateway.key.encode(), len(body))
        + body
    )
    received = await reader.read()
    writer.close()
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), received[-300:]
    return received.count(b" token")


@dataclass(frozen=True)
class Measurement:
    """CPU time of the gateway for each frame, in microseconds, and its memory at the end."""

    per_frame_us: float
    resident_mb: float


async def measure(tree: Path, options: argparse.Namespace) -> Measurement:
    """Start the gateway of `tree`, warm it up, then run all streams at once."""
    engine = Engine(frames=options.frames, pace_s=options.pace)
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    async with (
        server,
        running_gateway(tree, server.sockets[0].getsockname()[1], limits=options.limits) as gateway,
    ):
        await stream(gateway)
        before = gateway.cpu_s()
        running = []
        for _ in range(options.streams):
            running.append(asyncio.create_task(stream(gateway)))
            await asyncio.sleep(options.pace / 7)
        frames = sum(await asyncio.gather(*running))
        spent_s = gateway.cpu_s() - before
        memory_mb = gateway.resident_mb()
    assert frames == options.streams * options.frames, "frames were lost"
    return Measurement(spent_s / frames * 1e6, memory_mb)


def line(result: Measurement) -> str:
    """Format the measurement as one line."""
    return f"{result.per_frame_us:.1f} us a frame, {result.resident_mb:.0f} MB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one line a tree and round, then the medians."""
    parser = comparison_parser(__doc__)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--frames", type=int, default=200, help="frames of each stream")
    parser.add_argument("--pace", type=float, default=0.02, help="seconds between two frames of a stream")
    compare(parser.parse_args(arguments), measure, cost=lambda one: one.per_frame_us, line=line)


if __name__ == "__main__":
    main()
