"""Places of engines, and the weights that list and administrators give them."""

import logging
from collections.abc import Mapping
from typing import Any, cast

import pytest

from serval.engine.discovery import FoundEngine
from serval.engine.notation import ListedOptions
from serval.engine.place import FleetEngine, places_of, weigh
from serval.engine.protocol import RankLoad
from serval.engine.weights import ORDINARY, Override, Weight

FIFTH = Weight(0.2, is_share=True)


def engine_of(name: str, weight: Weight = ORDINARY, *, ranks: int = 1) -> FleetEngine:
    found = FoundEngine(name, f"http://{name}", ListedOptions(weight))
    engine = FleetEngine(found, cast(Any, None), state="ready" if ranks else "unknown")
    engine.places = places_of(engine, [RankLoad(dp_rank=rank) for rank in range(ranks)]) if ranks else []
    return engine


def weights(*engines: FleetEngine) -> list[float]:
    return [engine.relative_weight for engine in engines]


def test_weigh_puts_the_weights_of_the_list_in_force() -> None:
    engines = [engine_of("a"), engine_of("b"), engine_of("absent", ranks=0), engine_of("new", FIFTH, ranks=2)]
    assert weigh(engines, {}) == [engines[-1]]
    assert weights(*engines) == pytest.approx([1, 1, 1, 0.25])
    assert [place.view.weight for place in engines[-1].places] == pytest.approx([0.25, 0.25])
    assert weigh(engines, {}) == []


def test_weigh_leaves_shares_as_they_are_while_an_engine_is_away() -> None:
    first, other, new = engines = [engine_of("a"), engine_of("b"), engine_of("new", FIFTH)]
    weigh(engines, {})
    first.state = "unknown"
    assert weigh(engines, {}) == []
    other.leaving = True
    assert weigh(engines, {}) == [new]
    assert new.relative_weight == pytest.approx(0.25)


def test_weigh_lets_orders_win_over_the_list(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _, other, new = engines = [engine_of("a"), engine_of("b"), engine_of("new")]
    orders: Mapping[str, Override] = {
        "http://new": Override(FIFTH),
        "http://b": Override(drained=True),
        "http://another": Override(drained=True),
    }
    assert weigh(engines, orders) == [other, new]
    assert weights(*engines) == pytest.approx([1, 1, 0.25])
    assert [engine.is_ready for engine in engines] == [True, False, True]
    assert other.told_state == "draining"
    assert [record.message for record in caplog.records] == [
        "engine b has new orders",
        "engine new has new orders",
    ]
    assert weigh(engines, {}) == [other, new]
    assert all(engine.is_ready for engine in engines)
    other.state = "failing"
    other.override = Override(drained=True)
    assert other.told_state == "failing"
