"""Costs of long prompts: the formulas of the module by hand, on costs that are easy to add up."""

import math
from dataclasses import replace

import pytest

from serval_sglang.known_configs import LITE
from serval_sglang.plan import Deployment, plan_deployment
from serval_sglang.plan.long_context import Work, first_token_s, long_prompts, retrieved_s, stuffed_s
from serval_sglang.plan.reserve import BatchLimits
from serval_sglang.plan.step_costs import MeasuredCosts, estimated_costs

GIB = 1 << 30
PLAN = plan_deployment(
    Deployment(
        config=LITE,
        gpu_memory_bytes=round(140.4 * GIB),
        gpus=1,
        tp=1,
        ep=1,
        weight_dtype="fp8",
        kv_dtype="bf16",
        tables="device",
        context_tokens=262_144,
        runtime_bytes=GIB,
        limits=BatchLimits(1_000, 256),
    )
)
# A step of decoding takes 10 ms, one of prefill 100 ms and 1 ms a token.
COSTS = MeasuredCosts(0.01, 0.0, 0.1, 0.001)
WORK = Work(beginning=500, question=100, answer=10, calls=2, call=5, result=300)


class PairCosts:
    """A second for each attended pair, to see that all are counted once."""

    def decode_s(self, batch: int, context: float) -> float:
        return 0.0

    def prefill_s(self, tokens: int, pairs: float) -> float:
        return pairs


@pytest.mark.parametrize("chunk", [1, 7, 100, 1_000])
def test_first_token_counts_each_attended_pair_once(chunk: int) -> None:
    assert first_token_s(PairCosts(), 100, chunk=chunk) == 100 * 100 / 2
    assert first_token_s(PairCosts(), 100, cached=60, chunk=chunk) == 100 * 100 / 2 - 60 * 60 / 2


def test_first_token_takes_a_step_for_each_chunk() -> None:
    assert first_token_s(COSTS, 2_500, chunk=1_000) == pytest.approx(3 * 0.1 + 2.5)
    assert first_token_s(COSTS, 2_500, cached=2_400, chunk=1_000) == pytest.approx(0.1 + 0.1)


def test_question_is_the_sum_of_its_steps() -> None:
    assert stuffed_s(COSTS, 9_000, WORK, chunk=1_000) == pytest.approx(0.1 + 0.1 + 10 * 0.01)
    # The question; two calls of five tokens, each with 305 new tokens; the answer.
    assert retrieved_s(COSTS, WORK, chunk=1_000) == pytest.approx(0.2 + 2 * (5 * 0.01 + 0.405) + 10 * 0.01)


def test_retrieval_is_cheaper_for_fewer_questions_than_it_says() -> None:
    (prompt,) = long_prompts(PLAN, COSTS, WORK, lengths=[9_000])
    for number, cheaper in ((math.ceil(prompt.questions) - 1, True), (math.ceil(prompt.questions), False)):
        assert (number * prompt.retrieved_s < prompt.first_s + number * prompt.stuffed_s) is cheaper


def test_retrieval_that_is_cheaper_for_each_question_always_is() -> None:
    (prompt,) = long_prompts(PLAN, COSTS, replace(WORK, calls=0), lengths=[9_000])
    assert prompt.questions == math.inf


def test_prompt_holds_its_bytes_on_each_gpu_and_leaves_room_for_others() -> None:
    (prompt,) = long_prompts(PLAN, estimated_costs(PLAN), WORK, lengths=[131_072])
    assert prompt.kv_bytes == 131_072 * 32_256
    assert prompt.at_once == PLAN.kv_tokens // 131_072 > 1
    (too_long,) = long_prompts(PLAN, COSTS, WORK, lengths=[PLAN.kv_tokens + 1])
    assert too_long.at_once == 0
