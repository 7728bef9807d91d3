"""The simulation of several engines holds what the choice of a place is for."""

from dataclasses import replace

import pytest

from serval_load.cli import main
from serval_load.placement.engine_model import Speeds
from serval_load.placement.simulation import Result, World, simulate

AGENTS = World(gateways=3, seconds=300)
# Many keys with large system prompts, whose caches are nearly full.
QUESTIONS = World(
    agents_per_s=0, questions_per_s=16, keys=150, skew=0, system_tokens=6144, question_tokens=1280,
    speeds=Speeds(kv_tokens=308_000), seconds=100,
)  # fmt: skip
# Agents whose conversations are twice as large as all caches.
CROWD = World(
    agents_per_s=0, population=70, gateways=1, bound_s=300, speeds=Speeds(kv_tokens=300_000), seconds=300
)  # fmt: skip


@pytest.fixture(scope="module")
def crowd() -> dict[str, Result]:
    names = ("conversation hash", "two homes", "two homes, fair queue", "two homes, conversations whole")
    return {name: simulate(CROWD, name) for name in names}


@pytest.fixture(scope="module")
def agents() -> dict[str, Result]:
    return {name: simulate(AGENTS, name) for name in ("round robin", "conversation hash", "two homes")}


def test_agents_find_nine_tenths_of_what_one_cache_would(agents: dict[str, Result]) -> None:
    chosen = agents["two homes"]
    assert chosen.found >= 0.9 * chosen.best
    assert chosen.found >= 1.8 * agents["round robin"].found


def test_agents_wait_no_longer_than_at_fixed_homes(agents: dict[str, Result]) -> None:
    chosen, fixed = agents["two homes"], agents["conversation hash"]
    assert chosen.first_token_p99_s <= 1.25 * fixed.first_token_p99_s
    assert chosen.first_token_p99_s <= 0.5 * agents["round robin"].first_token_p99_s


def test_questions_share_system_prompts_where_a_hash_cannot() -> None:
    chosen, fixed = simulate(QUESTIONS, "two homes"), simulate(QUESTIONS, "conversation hash")
    assert chosen.found >= simulate(QUESTIONS, "keys dealt out").found - 0.05
    assert chosen.found >= 0.65
    assert fixed.found <= 0.3
    assert chosen.first_token_p99_s <= 0.2 * fixed.first_token_p99_s


def test_hot_key_does_not_overload_one_engine() -> None:
    assert simulate(replace(AGENTS, keys=2, skew=0), "two homes").busiest <= 1.3


def test_hot_key_of_single_questions_does_not_overload_one_engine() -> None:
    hot = replace(QUESTIONS, keys=40, skew=1.65, speeds=Speeds(), questions_per_s=32)  # half of all: one key
    assert simulate(hot, "two homes").busiest <= 1.3


def test_no_choice_of_a_place_helps_when_conversations_exceed_the_caches(crowd: dict[str, Result]) -> None:
    for name in ("conversation hash", "two homes", "two homes, fair queue"):
        assert crowd[name].found <= 0.4 * crowd[name].best


def test_conversations_admitted_whole_find_what_they_computed(crowd: dict[str, Result]) -> None:
    whole = crowd["two homes, conversations whole"]
    assert whole.found >= 0.85 * whole.best
    for name in ("conversation hash", "two homes", "two homes, fair queue"):
        assert whole.good_per_s >= 2 * crowd[name].good_per_s
        assert whole.answers_per_s >= crowd[name].answers_per_s


def test_conversations_admitted_whole_wait_no_longer_than_the_bound(crowd: dict[str, Result]) -> None:
    whole = crowd["two homes, conversations whole"]
    assert 0 < whole.longest_wait_s <= CROWD.bound_s
    assert whole.refused == 0


def test_conversations_that_fit_are_not_made_to_wait() -> None:
    world = replace(AGENTS, gateways=1)
    whole, free = simulate(world, "two homes, conversations whole"), simulate(world, "two homes")
    assert whole.longest_wait_s == 0
    assert whole.found >= free.found - 0.01


def test_simulation_is_the_same_each_time() -> None:
    short = replace(AGENTS, seconds=60)
    assert simulate(short, "two homes") == simulate(short, "two homes")


def test_placement_command_prints_a_row_for_each_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["placement", "--seconds", "60", "--only", "two homes", "round robin"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| two homes", "| round robin"]
