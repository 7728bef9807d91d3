"""A fixed number of agents: each begins another conversation whenever one has ended (a closed loop).

Conversations grow as in the simulation of `serval_load.placement`: keys of different weight, a system prompt
that the conversations of a key share, lengths drawn at random, and times of thinking between the turns.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serval_load.answers import Answer, read_stream
from serval_load.client import Peer, exchange, prepared
from serval_load.statistics import percentile
from serval_load.workloads.sessions import words


@dataclass(frozen=True)
class Population:
    """Agents and their conversations. Lengths are in words, of one token each; times in seconds."""

    agents: int = 70
    keys: int = 8
    seconds: float = 120.0
    turns: int = 8
    system: int = 384
    first: int = 512
    last: int = 8192
    answer: int = 20
    think_s: float = 1.0
    # Time over which the agents begin, and the longest pause after a refusal.
    stagger_s: float = 8.0
    retry_s: float = 2.0
    seed: int = 1


@dataclass(frozen=True)
class Asked:
    """A finished turn. `waited_s` is from the first attempt to the first token."""

    at: float
    waited_s: float
    prompt_tokens: int
    cached_tokens: int
    # Prompt of the turn before, or the system prompt: what a cache without limit would have found.
    known_tokens: int


@dataclass
class Outcome:
    """Turns of a run, and attempts that were refused; the longest time that one attempt took to begin."""

    population: Population
    asked: list[Asked] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    longest_s: float = 0.0


@dataclass(frozen=True)
class Figures:
    """Figures of a run without its first 15 %."""

    found: float
    best: float
    first_token_p50_s: float
    first_token_p99_s: float
    answers_per_s: float
    good_per_s: float


def figures_of(outcome: Outcome, *, good_s: float) -> Figures:
    """Return the figures; an answer is good if its first token came within `good_s`."""
    warm = 0.15 * outcome.population.seconds
    seen = [one for one in outcome.asked if warm <= one.at <= outcome.population.seconds]
    prompts = max(1, sum(one.prompt_tokens for one in seen))
    seconds = outcome.population.seconds - warm
    waits = [one.waited_s for one in seen] or [0.0]
    return Figures(
        found=sum(one.cached_tokens for one in seen) / prompts,
        best=sum(one.known_tokens for one in seen) / prompts,
        first_token_p50_s=percentile(waits, 50),
        first_token_p99_s=percentile(waits, 99),
        answers_per_s=len(seen) / seconds,
        good_per_s=sum(one.waited_s <= good_s for one in seen) / seconds,
    )


async def live(population: Population, peers: Sequence[Sequence[Peer]]) -> Outcome:
    """Let the agents work for `seconds`. `peers` has each key's servers; a conversation stays at one."""
    outcome = Outcome(population)
    started = time.monotonic()
    agents = [_agent(number, population, peers, started, outcome) for number in range(population.agents)]
    tasks = [asyncio.create_task(agent) for agent in agents]
    await asyncio.sleep(population.seconds)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    return outcome


async def _agent(
    number: int, population: Population, peers: Sequence[Sequence[Peer]], started: float, outcome: Outcome
) -> None:
    source = random.Random(population.seed << 20 | number)
    await asyncio.sleep(number * population.stagger_s / population.agents)
    while True:
        keys = range(population.keys)
        key = source.choices(keys, [1 / (rank + 1) for rank in keys])[0]
        peer = source.choice(peers[key])
        system = words(random.Random(f"{population.seed} {key}"), population.system)
        await _conversation(source, system, peer, population, started, outcome)


async def _conversation(  # noqa: PLR0917  # called once
    source: random.Random, system: str, peer: Peer, population: Population, started: float, outcome: Outcome
) -> None:
    middle = [source.randrange(population.first, population.last) for _ in range(population.turns - 2)]
    lengths = [population.first, *sorted(middle), population.last]
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}]
    before, known = population.system, population.system
    for length in lengths:
        messages.append({"role": "user", "content": words(source, max(length - before, 8))})
        first_at = time.monotonic()
        answer = await _answer(messages, peer, population, outcome)
        now = time.monotonic()
        outcome.asked.append(
            Asked(
                at=now - started,
                waited_s=now - first_at - answer.end_s + (answer.first_s or 0.0),
                prompt_tokens=answer.prompt_tokens,
                cached_tokens=answer.cached_tokens,
                known_tokens=min(known, answer.prompt_tokens),
            )
        )
        before, known = length, answer.prompt_tokens
        messages.append({"role": "assistant", "content": "Done."})
        await asyncio.sleep(source.expovariate(1 / population.think_s))


async def _answer(
    messages: list[dict[str, Any]], peer: Peer, population: Population, outcome: Outcome
) -> Answer:
    """Ask until it is answered."""
    body = {
        "model": "stand-in",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": population.answer,
        "messages": messages,
    }
    request = prepared(peer, json.dumps(body).encode())
    while True:
        answer = read_stream(await exchange(peer, request))
        outcome.longest_s = max(outcome.longest_s, answer.first_s or answer.end_s)
        if answer.complete:
            return answer
        if answer.status == 503 or "waited" in answer.error:
            outcome.refused += 1
        else:
            outcome.failed += 1
        await asyncio.sleep(population.retry_s)
