"""The controller of draft steps in the real engine: off while drafts are wrong, on again, and the same text.

The checkpoint's text is one cycle through the vocabulary, known in advance. Drafts are right in one half of
it and wrong in the other. Passes take an imitated time, so that what is chosen depends on acceptance alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from serval_sglang.known_configs import TINY
from serval_sglang.verify.engine import Engine, running_engine
from serval_testkit.engine_plugins import with_plugins, write_plugin
from serval_testkit.scripted_drafts import continuation, token_before_end, write_scripted_checkpoint

pytestmark = pytest.mark.engine

STEPS = 3
HALF = TINY.vocab_size // 2
LENGTH = 120

# A pass of all drafts costs half as much again as one without; measurements and trials are short.
IMITATED_TIME = """
from serval_sglang.drafts import controller


def register():
    controller.WINDOW, controller.PATIENCE, controller.MOST_PATIENCE, controller.LEAD = 4, 2, 4, 1
    observe = controller.StepsController.observe

    def observe_imitated(self, batch_size, steps, accepted, seconds):
        observe(self, batch_size, steps, accepted, {0: 1.0, 1: 1.2, 3: 1.5}[steps])

    controller.StepsController.observe = observe_imitated
"""


@dataclass(frozen=True)
class Drafts:
    """Counts of the engine over some texts."""

    passes: float
    drafted: float
    accepted: float

    @property
    def steps(self) -> float:
        return self.drafted / self.passes


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    checkpoint, plugins = tmp_path_factory.mktemp("checkpoint"), tmp_path_factory.mktemp("plugins")
    before_end = continuation(token_before_end(HALF), HALF)
    write_scripted_checkpoint(checkpoint, misleading=before_end)
    write_plugin(plugins, "imitated_time", IMITATED_TIME)
    with running_engine(
        checkpoint, dtype="float32", mtp_steps=STEPS, mtp_fixed=False, environment=with_plugins(plugins)
    ) as engine:
        yield engine


RIGHT = token_before_end(TINY.vocab_size - 5)
WRONG = token_before_end(HALF)


def write_texts(engine: Engine, last: int, *, at_once: int = 1) -> Drafts:
    """Ask for texts behind token `last`, all of which are known; return the counts of drafts."""
    body: dict[str, Any] = {
        "input_ids": [last],
        "sampling_params": {"temperature": 0, "max_new_tokens": LENGTH, "ignore_eos": True},
    }
    before = counted(engine)
    with ThreadPoolExecutor(at_once) as pool:
        answers = list(pool.map(lambda _: engine.post("/generate", body), range(at_once)))
    assert [answer["output_ids"] for answer in answers] == [continuation(last, LENGTH)] * at_once
    after = counted(engine)
    return Drafts(*(now - then for now, then in zip(after, before, strict=True)))


def counted(engine: Engine) -> tuple[float, float, float]:
    return (
        engine.metric_total("serval_engine_verifications_total"),
        engine.metric_total("serval_engine_drafted_tokens_total"),
        engine.metric_total("serval_engine_accepted_tokens_total"),
    )


def test_engine_stops_drafting_at_low_acceptance_and_begins_again(engine: Engine) -> None:
    right = [write_texts(engine, RIGHT) for _ in range(4)][-1]
    wrong = [write_texts(engine, WRONG) for _ in range(3)][-1]
    again = [write_texts(engine, RIGHT) for _ in range(6)][-1]
    print(right, wrong, again)
    assert right.steps > 2
    assert wrong.steps < 1
    assert again.steps > 2
    # The first drafts after a trial without any are right, too.
    assert again.accepted == again.drafted
    # Each pass gives its accepted drafts and one more; the prefill gives the first token.
    for drafts in (right, wrong, again):
        assert drafts.accepted + drafts.passes in range(LENGTH - 1, LENGTH + STEPS)


def test_engine_chooses_steps_of_a_batch(engine: Engine) -> None:
    right = [write_texts(engine, RIGHT, at_once=6) for _ in range(4)][-1]
    wrong = [write_texts(engine, WRONG, at_once=6) for _ in range(4)][-1]
    assert right.steps > 2
    assert wrong.steps < 1


def test_engine_says_which_steps_are_in_use(engine: Engine) -> None:
    write_texts(engine, WRONG)
    assert engine.metric_total("serval_engine_draft_steps") in (0, 1, 3)
    assert "Switch adaptive runtime state" not in engine.log()
