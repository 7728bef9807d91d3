"""The controller of draft steps on imitated engines, whose passes take a known time."""

import random
from collections.abc import Callable

import pytest

from serval_sglang.drafts.controller import LEAD, MARGIN, PATIENCE, WINDOW, StepsController

CANDIDATES = (0, 1, 3)
# Seconds of a pass by steps: each draft costs little, or as much as a pass.
CHEAP = {0: 1.0, 1: 1.1, 3: 1.3}
DEAR = {0: 1.0, 1: 1.9, 3: 3.7}


def accepted_of(steps: int, share: float, rng: random.Random) -> int:
    count = 0
    while count < steps and rng.random() < share:
        count += 1
    return count


def run(
    controller: StepsController,
    passes: int,
    *,
    share: float,
    costs: dict[int, float],
    batch_size: int = 4,
    noise: Callable[[int], float] = lambda number: 0.0,
) -> list[int]:
    """Run passes whose drafts are right with probability `share` each; return the steps of each pass."""
    rng, used = random.Random(0), []
    for number in range(passes):
        steps = controller.steps(batch_size)
        used.append(steps)
        accepted = [accepted_of(steps, share, rng) for _ in range(batch_size)]
        controller.observe(batch_size, steps, accepted, costs[steps] + noise(number))
    return used


def share_of(used: list[int], steps: int) -> float:
    return used.count(steps) / len(used)


def test_controller_begins_with_the_most_steps() -> None:
    assert StepsController(CANDIDATES).steps(1) == 3


def test_controller_keeps_all_steps_while_drafts_are_right_and_cheap() -> None:
    controller = StepsController(CANDIDATES)
    run(controller, 20 * WINDOW, share=0.9, costs=CHEAP)
    assert share_of(run(controller, 100 * WINDOW, share=0.9, costs=CHEAP), 3) > 0.9


def test_controller_switches_off_at_low_acceptance_and_on_again() -> None:
    controller = StepsController(CANDIDATES)
    run(controller, 20 * WINDOW, share=0.9, costs=CHEAP)
    run(controller, 20 * WINDOW, share=0.02, costs=CHEAP)
    assert share_of(run(controller, 100 * WINDOW, share=0.02, costs=CHEAP), 0) > 0.9
    run(controller, 140 * WINDOW, share=0.9, costs=CHEAP)
    assert share_of(run(controller, 20 * WINDOW, share=0.9, costs=CHEAP), 3) > 0.8


def test_controller_drafts_nothing_where_drafts_cost_more_than_they_give() -> None:
    controller = StepsController(CANDIDATES)
    run(controller, 20 * WINDOW, share=0.6, costs=DEAR)
    assert share_of(run(controller, 400 * WINDOW, share=0.6, costs=DEAR), 0) > 0.97


def test_controller_takes_one_step_where_the_second_is_seldom_right() -> None:
    controller = StepsController(CANDIDATES)
    used = run(controller, 200 * WINDOW, share=0.35, costs={0: 1.0, 1: 1.1, 3: 1.6})
    assert share_of(used[20 * WINDOW :], 1) > 0.8


def test_controller_chooses_by_size_of_the_batch() -> None:
    controller = StepsController(CANDIDATES)
    for _ in range(20):
        run(controller, 2 * WINDOW, share=0.6, costs=CHEAP, batch_size=2)
        run(controller, 2 * WINDOW, share=0.6, costs=DEAR, batch_size=32)
    assert [controller.steps(size) for size in (2, 32)] == [3, 0]
    # Sizes between two powers of two are one.
    assert [controller.steps(size) for size in (17, 33)] == [0, 3]


def test_controller_loses_little_time_to_trials() -> None:
    """The bound on what the controller costs where decoding without drafts is right."""
    controller = StepsController(CANDIDATES)
    used = run(controller, 4000 * WINDOW, share=0.02, costs=DEAR)
    lost = sum(DEAR[steps] for steps in used) / (DEAR[0] * len(used)) - 1
    assert lost < 0.03


def test_controller_passes_over_slow_passes_of_others() -> None:
    """A third of the passes waits for a prefill, whatever the steps."""
    controller = StepsController(CANDIDATES)
    noise = lambda number: 50.0 if number % 3 == 0 else 0.0  # noqa: E731
    run(controller, 20 * WINDOW, share=0.02, costs=CHEAP, noise=noise)
    assert share_of(run(controller, 100 * WINDOW, share=0.02, costs=CHEAP, noise=noise), 0) > 0.85


def test_controller_does_not_change_for_less_than_the_margin() -> None:
    controller = StepsController((0, 1))
    # Two tokens a pass with a draft: none would be faster by half of the margin.
    costs = {0: 1.0, 1: 1 + MARGIN}
    run(controller, 100 * WINDOW, share=1.0, costs=costs)
    assert share_of(run(controller, 100 * WINDOW, share=1.0, costs=costs), 1) > 0.9


def test_controller_leaves_out_passes_from_before_a_change() -> None:
    """SGLang launches a pass before it has the results of the last one."""
    controller = StepsController((0, 1))
    for _ in range(WINDOW):
        controller.observe(1, 1, [0], 2.0)
    assert controller.steps(1) == 0
    for _ in range(WINDOW):
        controller.observe(1, 1, [0], 99.0)
    assert controller.steps(1) == 0
    for _ in range(WINDOW):
        controller.observe(1, 0, [0], 1.0)
    assert controller.steps(1) == 0
    run(controller, 10 * WINDOW, share=0.0, costs={0: 1.0, 1: 2.0}, batch_size=1)
    assert controller.steps(1) == 0


@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_controllers_of_all_ranks_choose_alike(share: float) -> None:
    """Ranks measure different times; all take the first one's."""
    agreed: list[float] = []
    asked = iter(agreed)

    def keep(seconds: float) -> float:
        agreed.append(seconds)
        return seconds

    first = StepsController(CANDIDATES, agree=keep)
    chosen = run(first, 200 * WINDOW, share=share, costs=CHEAP)
    other = StepsController(CANDIDATES, agree=lambda seconds: next(asked))
    assert run(other, 200 * WINDOW, share=share, costs={0: 7.0, 1: 1.0, 3: 5.0}) == chosen
    assert next(asked, None) is None


def test_controller_with_one_candidate_never_changes() -> None:
    assert set(run(StepsController((3,)), 50 * WINDOW, share=0.0, costs=DEAR)) == {3}


def passes_with_layer(controller: StepsController, passes: int, *, share: float) -> list[tuple[int, bool]]:
    """Run passes; return the steps of each, and whether the layer runs."""
    seen = []
    for _ in range(passes):
        runs = controller.steps(4) > 0 or controller.layer_runs_without_drafts(4)
        seen += [(steps, runs) for steps in run(controller, 1, share=share, costs=DEAR)]
    return seen


def test_layer_runs_in_few_passes_without_drafts() -> None:
    controller = StepsController(CANDIDATES)
    run(controller, 20 * WINDOW, share=0.02, costs=DEAR)
    seen = passes_with_layer(controller, 1000 * WINDOW, share=0.02)
    without = [runs for steps, runs in seen if steps == 0]
    assert 0 < sum(without) < 0.01 * len(without)


@pytest.mark.parametrize("share", [0.02, 0.95])
def test_layer_runs_before_drafts_begin(share: float) -> None:
    """Before each trial of drafts, and after a trial of none."""
    controller = StepsController(CANDIDATES)
    seen = passes_with_layer(controller, 200 * WINDOW, share=share)
    begins = [n for n in range(1, len(seen)) if seen[n][0] > 0 and seen[n - 1][0] == 0]
    assert len(begins) >= 2
    for begin in begins:
        assert [runs for _, runs in seen[begin - LEAD : begin]] == [True] * LEAD


def test_layer_does_not_run_in_the_median_of_a_trial_without_drafts() -> None:
    controller = StepsController((0, 1))
    seen = passes_with_layer(controller, (PATIENCE + 4) * WINDOW, share=0.95)
    without = [runs for steps, runs in seen if steps == 0]
    assert without[:WINDOW] == [False] * (WINDOW - LEAD) + [True] * LEAD
