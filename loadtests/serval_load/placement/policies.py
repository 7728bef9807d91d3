"""Policies that choose an engine: the gateway's own, and those it is compared with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from serval.engine.placement import InFlight, PlaceView, PrefixIndex, choose, home_of
from serval_load.placement.admission import Kind
from serval_load.placement.engine_model import CLIENTS_A_KEY, SimLoad, SimRequest


@dataclass(eq=False)
class Gateway:
    """One gateway: views of the engines, and its own requests at each."""

    views: Sequence[PlaceView]
    random: Random
    in_flight: list[int] = field(init=False)
    prompts: InFlight = field(default_factory=InFlight)
    turn: int = 0

    def __post_init__(self) -> None:
        self.in_flight = [0] * len(self.views)

    def heard(self, loads: Sequence[SimLoad]) -> None:
        """Take over the engines' loads."""
        for view, load in zip(self.views, loads, strict=True):
            view.polled_waiting = load.waiting_uncached_tokens
            view.kv_use = load.kv_use


Policy = Callable[[Gateway, SimRequest], int]


def new_gateway(engines: int, *, kv_tokens: int, seed: int) -> Gateway:
    """Return a gateway that knows nothing yet."""
    views = [PlaceView(f"engine-{number}", PrefixIndex(kv_tokens)) for number in range(engines)]
    return Gateway(views, Random(seed))


def round_robin(gateway: Gateway, request: SimRequest) -> int:
    """Return the engines in turn."""
    gateway.turn += 1
    return gateway.turn % len(gateway.views)


def fewest_requests(gateway: Gateway, request: SimRequest) -> int:
    """Return the engine with the fewest requests of this gateway."""
    engines = range(len(gateway.views))
    return min(engines, key=lambda engine: (gateway.in_flight[engine], gateway.random.random()))


def client_address(gateway: Gateway, request: SimRequest) -> int:
    """Return the engine of the client's address, as a Service with ClientIP affinity does."""
    return _number(gateway, home_of(request.client.to_bytes(8, "little"), gateway.views))


def conversation_hash(gateway: Gateway, request: SimRequest) -> int:
    """Return the home of the conversation, whatever the load."""
    return _number(gateway, home_of(request.prompt.conversation, gateway.views))


def keys_dealt_out(gateway: Gateway, request: SimRequest) -> int:
    """Return the engine of the key; each engine has as many keys, as if all were known in advance.

    Where keys are alike and share nothing, no placement computes less.
    """
    return request.client // CLIENTS_A_KEY % len(gateway.views)


def two_homes(gateway: Gateway, request: SimRequest) -> int:
    """Return the engine that the gateway would choose."""
    homes = gateway.prompts.homes(request.prompt, len(gateway.views))
    return _number(gateway, choose(request.prompt, gateway.views, shared_homes=homes).view)


def _number(gateway: Gateway, view: PlaceView) -> int:
    return gateway.views.index(view)


# Choice of an engine, and admission before it.
POLICIES: Final[dict[str, tuple[Policy, Kind]]] = {
    "round robin": (round_robin, "at once"),
    "fewest requests": (fewest_requests, "at once"),
    "client address": (client_address, "at once"),
    "conversation hash": (conversation_hash, "at once"),
    "keys dealt out": (keys_dealt_out, "at once"),
    "two homes": (two_homes, "at once"),
    "two homes, fair queue": (two_homes, "fair"),
    "two homes, conversations whole": (two_homes, "whole"),
}
