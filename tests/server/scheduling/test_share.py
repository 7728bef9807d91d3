"""Number of slots of a process."""

from typing import Any

import pytest

from serval.engine.protocol import EngineInfo
from serval.scheduling.engine import slots_for
from serval.settings import Settings


@pytest.mark.parametrize(
    ("settings", "runs", "slots"),
    [
        ({}, 48, 54),
        ({}, 4, 6),
        ({"workers": 4}, 48, 13),
        ({"workers": 8}, 2, 1),
        ({"engine_slots": 10}, 48, 10),
        ({"engine_max_connections": 77}, None, 77),
    ],
)
def test_slots_are_those_of_the_engine_and_an_eighth_shared_by_workers(
    settings: dict[str, Any], runs: int | None, slots: int
) -> None:
    info = EngineInfo(model_path="", context_length=1, max_prompt_tokens=1, max_running_requests=runs)
    assert slots_for(Settings(**settings), info) == slots
