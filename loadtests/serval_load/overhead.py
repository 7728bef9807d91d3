"""Overhead of three ways to the same answer of one real engine: added time and CPU cost.

The ways are SGLang's native endpoint with token ids, SGLang's own OpenAI server with messages, and Serval's
gateway with the same messages.
"""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serval_load.answers import Answer, read_stream
from serval_load.client import Peer, exchange, prepared
from serval_load.programs import Program, cpu_s, process_tree
from serval_load.statistics import percentile
from serval_load.trace import token_times

QUESTIONS = (
    "Tell me a story.",
    "Count to ten.",
    "What is Serval?",
    "Write a haiku.",
    "Tell me a joke.",
)
NATIVE, SGLANG, SERVAL = "native", "sglang", "serval"
WAYS = (NATIVE, SGLANG, SERVAL)
_RESAMPLES = 2000


@dataclass(frozen=True)
class Servers:
    """Engine and gateway with their addresses."""

    engine: Program
    engine_peer: Peer
    gateway: Program
    gateway_peer: Peer
    model: str

    def front_cpu_s(self) -> float:
        """CPU time of HTTP processes: the gateway, and the engine without scheduler and detokenizer."""
        engine = [pid for pid in process_tree(self.engine.pid) if not _is_behind_http(pid)]
        return self.gateway.cpu_s() + sum(cpu_s(pid) for pid in engine)


def _is_behind_http(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sglang::")
    except OSError:  # the process has ended
        return False


@dataclass
class Measured:
    """All answers of one way. Times are in seconds; `cpu_s` covers the processes that speak HTTP."""

    first_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)


async def measure_ways(
    servers: Servers, *, rounds: int, tokens: int, log: Callable[[str], None]
) -> dict[str, Measured]:
    """Ask one question a round in all ways, in random order.

    Every prompt is sent once before, so that the prefix cache has it for each way. Raises `RuntimeError` if
    an answer fails or answers differ in length.
    """
    order = random.Random(0)
    found = {way: Measured() for way in WAYS}
    ids = {question: await _ids(servers, question) for question in QUESTIONS}
    for question in QUESTIONS:
        for way in WAYS:
            await _ask(servers, way, question, ids[question], tokens)
    for number in range(rounds):
        question = QUESTIONS[number % len(QUESTIONS)]
        lengths = {}
        for way in order.sample(WAYS, len(WAYS)):
            before = servers.front_cpu_s()
            answer = await _ask(servers, way, question, ids[question], tokens)
            # Work after the last byte (log lines, metrics) belongs to the request.
            await asyncio.sleep(0.02)
            found[way].cpu_s.append(servers.front_cpu_s() - before)
            assert answer.first_s is not None
            found[way].first_s.append(answer.first_s)
            found[way].end_s.append(answer.end_s)
            lengths[way] = answer.completion_tokens
        if len(set(lengths.values())) > 1:
            raise RuntimeError(f"{question!r} was answered with different numbers of tokens: {lengths}")
        if number % 10 == 9:
            log(f"{number + 1} of {rounds} rounds")
    return found


async def _ids(servers: Servers, question: str) -> list[int]:
    """Token ids of the prompt as the gateway sends it to the engine."""
    body = {"model": servers.model, "messages": [{"role": "user", "content": question}]}
    request = prepared(servers.gateway_peer, json.dumps(body).encode(), path="/tokenize")
    raw = await exchange(servers.gateway_peer, request)
    ids: list[int] = json.loads(raw.data.partition(b"\r\n\r\n")[2])["tokens"]
    return ids


async def _ask(servers: Servers, way: str, question: str, ids: Sequence[int], tokens: int) -> Answer:
    if way == NATIVE:
        return await _native(servers.engine_peer, ids, tokens)
    peer = servers.engine_peer if way == SGLANG else servers.gateway_peer
    body = {
        "model": servers.model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    answer = read_stream(await exchange(peer, prepared(peer, json.dumps(body).encode())))
    if not answer.complete:
        raise RuntimeError(f"{way}: {answer.status} {answer.error}")
    return answer


async def _native(peer: Peer, ids: Sequence[int], tokens: int) -> Answer:
    sampling = {"temperature": 0, "max_new_tokens": tokens}
    body = json.dumps({"input_ids": list(ids), "sampling_params": sampling, "stream": True}).encode()
    raw = await exchange(peer, prepared(peer, body, path="/generate"))
    times = token_times(raw)
    return Answer(
        status=200,
        first_s=times[0][0],
        end_s=raw.closed_at - raw.sent_at,
        completion_tokens=times[-1][1],
    )


def ratios(found: Measured, base: Measured) -> list[float]:
    """Ratios of the times of whole answers, round by round."""
    return [one / other for one, other in zip(found.end_s, base.end_s, strict=True)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Bootstrap interval of the median: the middle 95 % of medians of resampled values."""
    source = random.Random(0)
    medians = [percentile(source.choices(values, k=len(values)), 50) for _ in range(_RESAMPLES)]
    return percentile(medians, 2.5), percentile(medians, 97.5)


def table(found: dict[str, Measured], *, machine: str) -> str:
    """Markdown table with a row for each way."""
    names = {
        NATIVE: "token ids to SGLang's `/generate`",
        SGLANG: "SGLang's own OpenAI server",
        SERVAL: "Serval's gateway before the same engine",
    }
    lines = [
        f"{machine}",
        "",
        "| | first token p50, ms | whole answer p50, ms | whole answer, ratio to the first row (95 %)"
        " | CPU of what speaks HTTP, ms a request |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for way, one in found.items():
        each = ratios(one, found[NATIVE])
        low, high = interval(each)
        cells = [
            f"{percentile(one.first_s, 50) * 1e3:.1f}",
            f"{percentile(one.end_s, 50) * 1e3:.1f}",
            "1" if way == NATIVE else f"{percentile(each, 50):.4f} ({low:.4f} to {high:.4f})",
            f"{percentile(one.cpu_s, 50) * 1e3:.1f}",
        ]
        lines.append(f"| {names[way]} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
