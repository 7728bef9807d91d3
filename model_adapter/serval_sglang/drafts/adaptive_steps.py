"""The controller of draft steps behind SGLang's interface for adaptive speculation.

SGLang prepares attention backends and graphs for every number of steps in its configuration, and asks a
policy for the steps before each pass. `MeasuredSteps` replaces its policy, which looks at acceptance alone.

After each pass SGLang extends the draft model's cache by the new tokens. After one without drafts it leaves
that out if its variable SGLANG_SPEC_SKIP_ZERO_STEP_DRAFT_EXTEND says so; then `skip_draft_extend` decides.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from serval_sglang.drafts.controller import StepsController
from serval_sglang.metrics.drafts import count_drafts

# SGLang says so at level INFO with each change, trials included.
_CHANGES = "Switch adaptive runtime state"
_WORKER = "sglang.srt.speculative.eagle_worker_v2"
_RESULTS = "sglang.srt.managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor"


class MeasuredSteps:
    """SGLang's AdaptiveSpecPolicy, with its constructor. Results come by `resolve_tokens`, which knows the
    width of each pass; `on_verify_complete` does not."""

    def __init__(self, initial_steps: int, cfg_path: str | None = None) -> None:
        from sglang.srt.speculative.adaptive_spec_params import resolve_candidate_steps_from_config

        self.candidate_steps: list[int] = resolve_candidate_steps_from_config(cfg_path)
        self._controller = StepsController(self.candidate_steps, agree=_of_first_rank())
        self._graph_sizes: list[int] | None = None
        self._last: float | None = None
        hide_changes_of_steps()

    def set_cuda_graph_bs(self, cuda_graph_bs: list[int] | None) -> None:
        self._graph_sizes = cuda_graph_bs

    def cuda_graph_bs_for_step(self, step: int) -> list[int] | None:
        """Return the batch sizes to capture graphs for: all, as any of them may have any number of steps."""
        return self._graph_sizes

    def get_steps_for_batch(self, batch_size: int) -> int:
        return self._controller.steps(batch_size)

    def layer_runs_without_drafts(self, batch_size: int) -> bool:
        return self._controller.layer_runs_without_drafts(batch_size)

    def on_verify_complete(self, num_correct_drafts_per_req: list[int], batch_size: int) -> int | None:
        return None

    def observe(self, steps: int, accepted: list[int]) -> None:
        """Take in the results of a pass. It took the time since the last one, which is that of the device
        while passes are queued there."""
        now = time.perf_counter()
        if self._last is not None and accepted:
            self._controller.observe(len(accepted), steps, accepted, now - self._last)
        self._last = now


def resolve_tokens(original: Any, processor: Any, result: Any, batch: Any) -> Any:
    """Wrap SchedulerBatchResultProcessor._resolve_spec_v2_tokens: count drafts, and tell the policy."""
    from sglang.srt.runtime_context import get_parallel

    tokens = original(processor, result, batch)
    steps, accepted = result.speculative_num_draft_tokens - 1, result.num_correct_drafts_per_req_cpu
    if get_parallel().attn_tp_rank == 0:
        count_drafts(steps, accepted)
    controller = getattr(processor.model_worker, "adaptive_controller", None)
    if controller is not None:
        controller.params.observe(steps, accepted)
    return tokens


def skip_draft_extend(original: Any, worker: Any, batch: Any, result: Any) -> None:
    """Wrap EAGLEWorkerV2._stub_skipped_draft_extend, called after a pass without drafts: extend the draft's
    cache after all if drafts may begin soon."""
    from sglang.srt.layers.moe.utils import (
        speculative_moe_a2a_backend_context,
        speculative_moe_backend_context,
    )
    from sglang.srt.speculative.spec_utils import draft_tp_context

    if not worker.adaptive_controller.params.layer_runs_without_drafts(len(batch.seq_lens)):
        original(worker, batch, result)
        return
    # As in EAGLEWorkerV2.forward_batch_generation.
    with (
        draft_tp_context(worker.draft_worker.parallel_layout),
        speculative_moe_backend_context(),
        speculative_moe_a2a_backend_context(),
    ):
        worker.draft_worker._draft_extend_for_decode(batch, result)


def _of_first_rank() -> Callable[[float], float]:
    """Return a function that gives every rank of the tensor-parallel group the first one's value."""
    import torch
    from sglang.srt.distributed.parallel_state import get_tp_group

    group = get_tp_group()

    def agree(seconds: float) -> float:
        if group.world_size == 1:
            return seconds
        value = torch.tensor([seconds], dtype=torch.float64)
        torch.distributed.broadcast(value, src=group.ranks[0], group=group.cpu_group)
        return value.item()

    return agree


def hide_changes_of_steps() -> None:
    """Leave SGLang's messages about changes of steps out of its log; a metric has the steps in use."""
    logging.getLogger(_WORKER).addFilter(_is_no_change)


def _is_no_change(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(_CHANGES)


REPLACED = {"sglang.srt.speculative.adaptive_spec_params.AdaptiveSpeculativeParams": MeasuredSteps}
AROUND = {
    f"{_RESULTS}._resolve_spec_v2_tokens": resolve_tokens,
    f"{_WORKER}.EAGLEWorkerV2._stub_skipped_draft_extend": skip_draft_extend,
}
