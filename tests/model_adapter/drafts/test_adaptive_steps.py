"""The controller behind SGLang's interface: its policy, results of passes, and one value for all ranks."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from serval_sglang.drafts import adaptive_steps
from serval_sglang.drafts.adaptive_steps import MeasuredSteps
from serval_sglang.launch import adaptive_flags


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch) -> MeasuredSteps:
    pytest.importorskip("sglang.srt.speculative.adaptive_spec_params", reason="needs SGLang")
    monkeypatch.setattr(adaptive_steps, "_of_first_rank", lambda: lambda seconds: seconds)
    return MeasuredSteps(initial_steps=3, cfg_path=configuration(3))


def configuration(steps: int) -> str:
    return adaptive_flags(steps)[1].removeprefix("--speculative-adaptive-config=")


@pytest.mark.parametrize(("steps", "candidates"), [(1, [0, 1]), (2, [0, 1, 2]), (3, [0, 1, 3])])
def test_configuration_has_candidates_up_to_the_steps(steps: int, candidates: list[int]) -> None:
    params = pytest.importorskip("sglang.srt.speculative.adaptive_spec_params", reason="needs SGLang")
    assert params.resolve_candidate_steps_from_config(configuration(steps)) == candidates


def test_policy_offers_what_sglang_asks_for(policy: MeasuredSteps) -> None:
    state = pytest.importorskip("sglang.srt.speculative.adaptive_runtime_state", reason="needs SGLang")
    asked = {name for name in vars(state.AdaptiveSpecPolicy) if not name.startswith("_")}
    assert asked <= set(dir(policy))
    assert policy.candidate_steps == [0, 1, 3]


def test_policy_captures_graphs_of_all_sizes_for_all_steps(policy: MeasuredSteps) -> None:
    assert policy.cuda_graph_bs_for_step(0) is None
    policy.set_cuda_graph_bs([1, 2, 4])
    assert [policy.cuda_graph_bs_for_step(steps) for steps in (0, 1, 3)] == [[1, 2, 4]] * 3


def test_policy_changes_steps_before_a_pass_only(policy: MeasuredSteps) -> None:
    assert policy.on_verify_complete([0, 0], batch_size=2) is None
    assert policy.get_steps_for_batch(2) == 3


def test_policy_measures_from_result_to_result(
    policy: MeasuredSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 10.5, 12.5, 13.0])
    monkeypatch.setattr(adaptive_steps.time, "perf_counter", lambda: next(clock))
    observed: list[Any] = []
    monkeypatch.setattr(policy._controller, "observe", lambda *seen: observed.append(seen))
    policy.observe(3, [1])  # nothing before it
    policy.observe(3, [1, 2])
    policy.observe(1, [])  # an idle pass
    policy.observe(0, [0])
    assert observed == [(2, 3, [1, 2], 0.5), (1, 0, [0], 0.5)]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("adaptive", [True, False])
def test_resolve_tokens_tells_policy_and_metrics(
    rank: int, adaptive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = pytest.importorskip("sglang.srt.runtime_context", reason="needs SGLang")
    monkeypatch.setattr(context, "get_parallel", lambda: SimpleNamespace(attn_tp_rank=rank))
    counted: list[Any] = []
    monkeypatch.setattr(adaptive_steps, "count_drafts", lambda *seen: counted.append(seen))
    observed: list[Any] = []
    params = SimpleNamespace(observe=lambda *seen: observed.append(seen))
    controller = SimpleNamespace(params=params) if adaptive else None
    processor = SimpleNamespace(model_worker=SimpleNamespace(adaptive_controller=controller))
    result = SimpleNamespace(speculative_num_draft_tokens=4)

    def original(processor: Any, result: Any, batch: Any) -> str:
        result.num_correct_drafts_per_req_cpu = [2, 0]
        return "tokens"

    assert adaptive_steps.resolve_tokens(original, processor, result, None) == "tokens"
    # One rank counts; all choose.
    assert counted == ([(3, [2, 0])] if rank == 0 else [])
    assert observed == ([(3, [2, 0])] if adaptive else [])


@pytest.mark.parametrize("runs", [True, False])
def test_skip_draft_extend_asks_the_policy(policy: MeasuredSteps, *, runs: bool) -> None:
    pytest.importorskip("sglang.srt.speculative.spec_utils", reason="needs SGLang")
    asked: list[int] = []
    done: list[Any] = []
    policy.layer_runs_without_drafts = lambda size: bool(asked.append(size)) or runs  # type: ignore[method-assign]
    draft_worker = SimpleNamespace(
        parallel_layout=SimpleNamespace(tp_group=None),
        _draft_extend_for_decode=lambda *seen: done.append(seen),
    )
    worker = SimpleNamespace(adaptive_controller=SimpleNamespace(params=policy), draft_worker=draft_worker)
    batch = SimpleNamespace(seq_lens=[7, 8, 9])
    skipped: list[Any] = []
    adaptive_steps.skip_draft_extend(lambda *seen: skipped.append(seen), worker, batch, "result")
    assert asked == [3]
    assert done == ([(batch, "result")] if runs else [])
    assert skipped == ([] if runs else [(worker, batch, "result")])


def test_hide_changes_of_steps_keeps_other_messages(caplog: pytest.LogCaptureFixture) -> None:
    adaptive_steps.hide_changes_of_steps()
    logger = logging.getLogger("sglang.srt.speculative.eagle_worker_v2")
    with caplog.at_level(logging.INFO, logger=logger.name):
        logger.info("Switch adaptive runtime state: steps 3 -> 0, draft_tokens 4 -> 1")
        logger.info("Built adaptive runtime state steps=0")
    assert [record.getMessage() for record in caplog.records] == ["Built adaptive runtime state steps=0"]
