"""Workload of agents and single questions, sent through gateways to engines."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from typing import Final

from serval.engine.placement import BLOCK_TOKENS, PlacedPrompt
from serval.scheduling.seats import PlaceLimit, Turn
from serval.scheduling.working_set import WorkingSet
from serval_load.placement.admission import SLOTS, Admission, AtOnce, ByConversation, FairSlots, Kind, Lease
from serval_load.placement.engine_model import CLIENTS_A_KEY, Clock, SimEngine, SimRequest, Speeds
from serval_load.placement.policies import POLICIES, Gateway, new_gateway
from serval_load.statistics import percentile

POLL_S: Final = 0.5
# Time over which a population begins, and after which an agent that was refused asks again.
_STAGGER_S: Final = 30.0
_RETRY_S: Final = 5.0


@dataclass(frozen=True)
class World:
    """Engines, gateways and their users. Rates are by second, lengths in tokens."""

    engines: int = 4
    gateways: int = 3
    seconds: float = 900.0
    speeds: Speeds = field(default_factory=Speeds)
    keys: int = 40
    # Weight of the key number n is 1 / n ** skew.
    skew: float = 1.0
    system_tokens: int = 3072
    agents_per_s: float = 0.5
    turns: int = 8
    first_tokens: int = 4096
    last_tokens: int = 65_536
    answer_tokens: int = 200
    think_s: float = 4.0
    questions_per_s: float = 0.0
    # Agents that begin another conversation whenever one has ended, beside those that arrive.
    population: int = 0
    # Every request of a conversation goes through the same gateway, as over one connection.
    sticky: bool = False
    # With conversations admitted whole: share of the caches for them, and the longest wait.
    working_set: float = 0.8
    bound_s: float = 60.0
    # Time to the first token within which an answer counts for the goodput.
    good_s: float = 5.0
    question_tokens: int = 512
    seed: int = 1


@dataclass(frozen=True)
class Result:
    """Figures of a run, without its first 15 %: shares, ratios and seconds."""

    requests: int
    # Prompt tokens found in caches, and the share that one cache for all, without a limit, would find.
    found: float
    best: float
    first_token_p50_s: float
    first_token_p99_s: float
    # Computed tokens of the busiest engine, to the mean.
    busiest: float
    # Answers a second, and those whose first token came in time.
    answers_per_s: float
    good_per_s: float
    # Longest wait for admission, and requests that were refused after it.
    longest_wait_s: float
    refused: int


def simulate(world: World, policy: str) -> Result:
    """Run the world with a policy of `NAMES`."""
    run = _Run(world, policy)
    run.start()
    run.clock.run(world.seconds)
    return run.result()


class _Run:
    def __init__(self, world: World, policy: str) -> None:
        self.world, self.clock = world, Clock()
        self._choose, admission = POLICIES[policy]
        self._random = Random(world.seed)
        self._gateway_of = Random(world.seed + 5)
        self._engines = [SimEngine(self.clock, world.speeds) for _ in range(world.engines)]
        self._gateways = [
            new_gateway(world.engines, kv_tokens=world.speeds.kv_tokens, seed=world.seed * 77 + number)
            for number in range(world.gateways)
        ]
        self._admissions = [self._admission(admission) for _ in self._gateways]
        self._blocks = count(1)
        self._conversations = count()
        self._weights = [1 / (number + 1) ** world.skew for number in range(world.keys)]
        self._systems = [self._new_blocks(world.system_tokens) for _ in range(world.keys)]
        self._ended: list[SimRequest] = []

    def start(self) -> None:
        self._poll()
        for number in range(self.world.population):
            key = self._random.choices(range(self.world.keys), self._weights)[0]
            self.clock.after(
                number * _STAGGER_S / self.world.population, partial(self._agent, key, again=True)
            )
        if self.world.agents_per_s:
            self._arrive(self.world.agents_per_s, self._agent)
        if self.world.questions_per_s:
            self._arrive(self.world.questions_per_s, self._question)

    def _admission(self, kind: Kind) -> Admission:
        world = self.world
        if kind == "at once":
            return AtOnce()
        if kind == "fair":
            return FairSlots(self.clock, SLOTS * world.engines // world.gateways)
        working_set = WorkingSet(bound_s=world.bound_s)
        room = world.working_set * world.speeds.kv_tokens / world.gateways
        working_set.resize({f"engine-{number}": PlaceLimit(room) for number in range(world.engines)})
        return ByConversation(self.clock, working_set, world.bound_s)

    def _new_blocks(self, tokens: int) -> list[int]:
        return [next(self._blocks) for _ in range(tokens // BLOCK_TOKENS)]

    def _arrive(self, rate: float, user: Callable[[int], None]) -> None:
        def arrival() -> None:
            user(self._random.choices(range(self.world.keys), self._weights)[0])
            self._arrive(rate, user)

        self.clock.after(self._random.expovariate(rate), arrival)

    def _agent(self, key: int, *, again: bool = False) -> None:
        world, total = self.world, self.world.last_tokens // BLOCK_TOKENS
        system = self._systems[key]
        blocks = system + self._new_blocks(world.last_tokens - len(system) * BLOCK_TOKENS)
        first = world.first_tokens // BLOCK_TOKENS
        cuts = sorted(self._random.randrange(first, total) for _ in range(world.turns - 2))
        begin = partial(self._agent, key, again=True) if again else None
        self._ask(key, blocks, iter([first, *cuts, total]), world.answer_tokens, then=begin)

    def _question(self, key: int) -> None:
        blocks = self._systems[key] + self._new_blocks(self.world.question_tokens)
        self._ask(key, blocks, iter([len(blocks)]), answer=128)

    def _ask(
        self,
        key: int,
        blocks: list[int],
        lengths: Iterator[int],
        answer: int,
        *,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Ask for each length of the conversation `blocks` when the answer before has come."""
        client = key * CLIENTS_A_KEY + self._random.randrange(CLIENTS_A_KEY)
        number = next(self._conversations)
        conversation = number.to_bytes(8, "little")
        # Its own, so that every policy meets the same conversations.
        think = Random(self.world.seed << 32 | number)
        earlier = 0
        at = self._gateway_of.randrange(len(self._gateways))

        def ask() -> None:
            nonlocal earlier
            length = next(lengths, None)
            if length is None:
                if then is not None:
                    then()
                return
            prompt = PlacedPrompt(
                tokens=length * BLOCK_TOKENS,
                blocks=blocks[:length],
                shared=self.world.system_tokens,
                earlier=earlier,
                conversation=conversation,
                shared_key=b"system" + key.to_bytes(8, "little"),
            )
            earlier = prompt.tokens
            gateway = at if self.world.sticky else self._gateway_of.randrange(len(self._gateways))
            request = SimRequest(prompt, answer, client, self.clock.now, lambda _: None, lambda _: None)
            self._enter(request, key, gateway, then=lambda: self._think(think, ask))

        ask()

    def _think(self, random: Random, then: Callable[[], None]) -> None:
        self.clock.after(random.expovariate(1 / self.world.think_s), then)

    def _enter(self, request: SimRequest, key: int, at: int, *, then: Callable[[], None]) -> None:
        """Send the request when its gateway admits it."""
        gateway, prompt = self._gateways[at], request.prompt
        turn = Turn(
            owner=str(key),
            conversation=prompt.conversation,
            shared_key=prompt.shared_key,
            shared=prompt.shared,
            tokens=prompt.tokens + request.answer,
            continues=prompt.earlier > 0,
            tail=prompt.tokens,
        )
        wanted = self._choose(gateway, request)

        def go(lease: Lease | None) -> None:
            if lease is None:
                self.clock.after(_RETRY_S, lambda: self._enter(request, key, at, then=then))
                return
            number = wanted
            if lease.place not in {None, gateway.views[wanted].identity}:
                number = next(n for n, view in enumerate(gateway.views) if view.identity == lease.place)
            self._send(request, gateway, number, lease, then=then)

        self._admissions[at].ask(turn, gateway.views[wanted].identity, go)

    def _send(
        self, request: SimRequest, gateway: Gateway, number: int, lease: Lease, *, then: Callable[[], None]
    ) -> None:
        view = gateway.views[number]
        uncached = view.uncached(request.prompt)

        def on_first(_: SimRequest) -> None:
            view.own_waiting -= uncached

        def on_end(_: SimRequest) -> None:
            gateway.in_flight[number] -= 1
            gateway.prompts.ended(request.prompt)
            self._ended.append(request)
            lease.end()
            then()

        request.on_first, request.on_end = on_first, on_end
        view.own_waiting += uncached
        view.index.add(request.prompt.blocks)
        gateway.in_flight[number] += 1
        gateway.prompts.started(request.prompt)
        self._engines[number].add(request)

    def _poll(self) -> None:
        loads = [engine.load() for engine in self._engines]
        for gateway in self._gateways:
            gateway.heard(loads)
        for admission in self._admissions:
            admission.poll()
        self.clock.after(POLL_S, self._poll)

    def result(self) -> Result:
        warm = self.world.seconds * 0.15
        seen = [request for request in self._ended if request.at >= warm]
        prompts = sum(request.prompt.tokens for request in seen)
        known: set[int] = set()
        least = 0
        for request in sorted(self._ended, key=lambda request: request.at):
            fresh = set(request.prompt.blocks) - known
            known |= fresh
            least += len(fresh) * BLOCK_TOKENS * (request.at >= warm)
        waits = [request.first_at - request.at for request in seen]
        sets = [one for one in self._admissions if isinstance(one, ByConversation)]
        measured_s = self.world.seconds - warm
        work = [engine.prefilled for engine in self._engines]
        return Result(
            requests=len(seen),
            found=sum(request.cached for request in seen) / prompts,
            best=1 - least / prompts,
            first_token_p50_s=percentile(waits, 50),
            first_token_p99_s=percentile(waits, 99),
            busiest=max(work) * len(work) / sum(work),
            answers_per_s=len(seen) / measured_s,
            good_per_s=sum(wait <= self.world.good_s for wait in waits) / measured_s,
            longest_wait_s=max((one.longest_s for one in sets), default=0.0),
            refused=sum(one.refused for one in sets),
        )
