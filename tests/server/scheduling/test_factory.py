"""The room of conversations that are admitted whole, from what engines tell."""

from math import inf
from typing import Any, cast

from serval.engine.discovery import FoundEngine
from serval.engine.place import FleetEngine, Place, places_of
from serval.engine.protocol import RankLoad
from serval.scheduling.factory import limits_of
from serval.scheduling.seats import PlaceLimit
from serval.settings import Settings


def place_with(weight: float, *, kv_tokens: int | None) -> Place:
    engine = FleetEngine(FoundEngine(f"e{weight}", "http://engine"), cast(Any, None), state="ready")
    (place,) = places_of(engine, [RankLoad(max_total_num_tokens=kv_tokens)])
    place.view.weight = weight
    return place


def test_limits_of_places_are_this_process_share_of_each_cache_with_the_weight() -> None:
    places = [place_with(1.0, kv_tokens=1000), place_with(0.25, kv_tokens=None)]
    limits = limits_of(places, Settings(working_set=0.8, workers=2))
    assert limits == {"e1.0": PlaceLimit(400, 1.0), "e0.25": PlaceLimit(inf, 0.25)}
