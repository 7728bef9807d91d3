"""CPU time the gateway spends on one streamed frame, for one or more checkouts of it in turn.

    python loadtests/frame_cost.py                                 this checkout
    python loadtests/frame_cost.py --tree /tmp/before --tree .     two checkouts, alternately, and their ratio
    python loadtests/frame_cost.py --api responses                 another API of this checkout, and chat

The clients and an engine stand-in run in this process. On each stream the stand-in sends one frame of
SGLang's size and shape every `--pace` seconds. Only the gateway's own CPU time is counted (user and system,
from /proc). Streams start one after the other and drift apart, as real ones do; frames that the gateway reads
together count one by one. Other work on the same core raises the figures (cold caches), so compare only
figures of one run.
"""

import argparse
import asyncio
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import uvloop

from checkouts import ABOUT, PROMPT, ROOT, Gateway, chunk, compare, comparison_parser, event, running_gateway


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


class Api(NamedTuple):
    """An API: its path, the fields of a request, and what follows its frames of text."""

    path: str
    fields: Mapping[str, object]
    end: bytes


MESSAGES = [{"role": "user", "content": PROMPT}]
APIS = {
    "chat": Api("/v1/chat/completions", {"messages": MESSAGES}, b"data: [DONE]"),
    "responses": Api("/v1/responses", {"input": MESSAGES}, b"event: response.output_text.done"),
}


async def stream(gateway: Gateway, api: Api = APIS["chat"]) -> int:
    """Read one streamed answer to its end; return the number of its content frames."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    body = json.dumps({"model": "m", "stream": True, **api.fields}).encode()
    writer.write(
        b"POST %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        % (api.path.encode(), gateway.key.encode(), len(body))
        + body
    )
    received = await reader.read()
    writer.close()
    assert api.end in received, received[-300:]
    return received.partition(api.end)[0].count(b" token")


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
        per_frame_us = await per_frame(gateway, APIS["chat"], options)
        memory_mb = gateway.resident_mb()
    return Measurement(per_frame_us, memory_mb)


async def per_frame(gateway: Gateway, api: Api, options: argparse.Namespace) -> float:
    """Run all streams at once, and return the gateway's CPU time for each frame, in microseconds."""
    await stream(gateway, api)
    before = gateway.cpu_s()
    running = []
    for _ in range(options.streams):
        running.append(asyncio.create_task(stream(gateway, api)))
        await asyncio.sleep(options.pace / 7)
    frames = sum(await asyncio.gather(*running))
    assert frames == options.streams * options.frames, "frames were lost"
    return (gateway.cpu_s() - before) / frames * 1e6


async def measure_beside_chat(api: str, options: argparse.Namespace) -> None:
    """Let one gateway serve streams of both APIs in turn, and print medians and their ratio."""
    engine = Engine(frames=options.frames, pace_s=options.pace)
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    found: dict[str, list[float]] = {"chat": [], api: []}
    async with (
        server,
        running_gateway(ROOT, server.sockets[0].getsockname()[1], limits=options.limits) as gateway,
    ):
        for _ in range(options.rounds):
            for name, costs in found.items():
                costs.append(await per_frame(gateway, APIS[name], options))
    medians = {name: statistics.median(costs) for name, costs in found.items()}
    for name, median in medians.items():
        print(f"median {name}: {median:.1f} us a frame, {median / medians['chat']:.2f} times chat's")


def line(result: Measurement) -> str:
    """Format the measurement as one line."""
    return f"{result.per_frame_us:.1f} us a frame, {result.resident_mb:.0f} MB"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one line a tree and round, then the medians."""
    parser = comparison_parser(__doc__)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--frames", type=int, default=200, help="frames of each stream")
    parser.add_argument("--pace", type=float, default=0.02, help="seconds between two frames of a stream")
    parser.add_argument("--api", choices=sorted(APIS), help="an API to measure beside chat")
    options = parser.parse_args(arguments)
    if options.api is not None:
        uvloop.run(measure_beside_chat(options.api, options))
        return
    compare(options, measure, cost=lambda one: one.per_frame_us, line=line)


if __name__ == "__main__":
    main()
