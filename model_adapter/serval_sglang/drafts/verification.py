"""Hooks on SGLang's verification of drafts, after which a request's answer does not depend on them."""

import copy
import dataclasses
from typing import Any

from serval_sglang.drafts.penalties import copied_penalizer, count_new_tokens, penalise_chains
from serval_sglang.drafts.truncation import truncate

# On the copy of SGLang's SamplingBatchInfo that a forward pass gets: copies of the batch's penalizers.
_PENALIZERS = "serval_penalizers"


def forward_copy(original: Any, sampling_info: Any) -> Any:
    """Wrap SamplingBatchInfo.copy_for_forward: count accepted tokens, and hand the penalizers on.

    Called when the results of the last pass are known: see `is_disable_overlap_for_batch`.
    """
    orchestrator = sampling_info.penalizer_orchestrator
    if not orchestrator.is_required or not _uses_drafts(orchestrator.batch):
        return original(sampling_info)
    count_new_tokens(orchestrator)
    copied = original(sampling_info)
    setattr(copied, _PENALIZERS, [copied_penalizer(p) for p in orchestrator.penalizers.values()])
    return copied


def cumulate_penalty_output_tokens(original: Any, batch: Any) -> None:
    """Wrap ScheduleBatch.cumulate_penalty_output_tokens, which counts one token of a request;
    `forward_copy` counts all."""
    if not _uses_drafts(batch):
        original(batch)


def is_disable_overlap_for_batch(original: Any, scheduler: Any, batch: Any, last_batch: Any) -> bool:
    """Wrap Scheduler.is_disable_overlap_for_batch: a batch with penalties waits for the last pass, because
    they depend on its tokens."""
    disabled: bool = original(scheduler, batch, last_batch=last_batch)
    needs_tokens = (
        _uses_drafts(batch)
        and batch.sampling_info is not None
        and batch.sampling_info.penalizer_orchestrator.is_required
        and len(scheduler.result_queue) > 0
    )
    return disabled or needs_tokens


def eagle_sample(
    original: Any, verify_input: Any, batch: Any, logits_output: Any, grammar_mask: Any = None, **named: Any
) -> Any:
    """Wrap eagle_sample: exact penalties, and min-p, which it leaves out; on a CPU top-k and top-p too.

    The adjusted logits stay in `logits_output`, from which log-probabilities are computed afterwards. They
    are not truncated, as in decoding without drafts.
    """
    # Imported late: SGLang must not be imported before its plugins are loaded.
    from sglang.srt.utils import is_cpu

    info = batch.sampling_info
    if batch.forward_mode.is_idle():
        return original(verify_input, batch, logits_output, grammar_mask, **named)
    logits, width = logits_output.next_token_logits, verify_input.draft_token_num
    penalizers = getattr(info, _PENALIZERS, None)
    if penalizers is not None:
        chains = logits.view(-1, width, logits.shape[-1])
        penalise_chains(penalizers, chains, verify_input.draft_token.view(-1, width))
        info = dataclasses.replace(info, acc_additive_penalties=None, acc_scaling_penalties=None)
    if not info.is_all_greedy and (info.need_min_p_sampling or is_cpu()):
        if grammar_mask is not None:
            grammar_mask.apply(logits)
            grammar_mask = None
        if info.logit_bias is not None:
            logits.add_(info.logit_bias.repeat_interleave(width, dim=0))
        logits_output = copy.copy(logits_output)
        logits_output.next_token_logits = _truncated(logits, info, width)
        info = dataclasses.replace(
            info, logit_bias=None, need_top_k_sampling=False, need_top_p_sampling=False
        )
    if info is not batch.sampling_info:
        batch = copy.copy(batch)
        batch.sampling_info = info
    return original(verify_input, batch, logits_output, grammar_mask, **named)


def _truncated(logits: Any, info: Any, width: int) -> Any:
    names = ("temperatures", "top_ks", "top_ps", "min_ps")
    return truncate(logits, **{name: getattr(info, name).repeat_interleave(width, dim=0) for name in names})


def _uses_drafts(batch: Any) -> bool:
    return batch is not None and not batch.spec_algorithm.is_none()


AROUND = {
    "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo.copy_for_forward": forward_copy,
    "sglang.srt.managers.schedule_batch.ScheduleBatch.cumulate_penalty_output_tokens": (
        cumulate_penalty_output_tokens
    ),
    "sglang.srt.managers.scheduler.Scheduler.is_disable_overlap_for_batch": is_disable_overlap_for_batch,
    "sglang.srt.speculative.eagle_utils.eagle_sample": eagle_sample,
}
