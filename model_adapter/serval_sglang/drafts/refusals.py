"""Flags of SGLang with which drafts would change answers. Imports neither torch nor SGLang."""

from typing import Any

# Public definitions leave the attention of its layer open: to all tokens, to those of an own indexer, or to
# those that the last layer has chosen.
DRAFTS_WITH_SPARSE_ATTENTION = (
    "--mtp-steps is not supported with sparse attention: no public source says which tokens the drafting "
    "layer attends to"
)

# SGLang's names for drafts by a model's own layer.
_ALGORITHMS = ("EAGLE", "NEXTN")


def reason_against_drafts(server_args: Any) -> str | None:
    """Return a sentence that says which flag does not go with drafts and why; None if there is none, or if no
    drafts are asked for."""
    given = server_args
    if given.speculative_algorithm is None:
        return None
    if given.speculative_algorithm not in _ALGORITHMS:
        return (
            f"--speculative-algorithm {given.speculative_algorithm} is not supported: this model drafts with "
            "its own layer, by --mtp-steps"
        )
    reasons = {
        "--speculative-eagle-topk": (
            given.speculative_eagle_topk not in (None, 1),
            "the n-gram state follows one chain of drafts, no tree",
        ),
        "--speculative-use-rejection-sampling": (
            given.speculative_use_rejection_sampling,
            "drafts drawn at random have not been compared with decoding without drafts",
        ),
        "--speculative-accept-threshold-single": (
            given.speculative_accept_threshold_single != 1.0,
            "tokens would be accepted more often than their probability allows",
        ),
        "--speculative-accept-threshold-acc": (
            given.speculative_accept_threshold_acc != 1.0,
            "tokens would be accepted more often than their probability allows",
        ),
        "--enable-mixed-chunk": (
            given.enable_mixed_chunk,
            "decode steps in prefill batches have not been compared with decoding without drafts",
        ),
        "--enable-custom-logit-processor": (
            given.enable_custom_logit_processor,
            "SGLang does not apply processors when it verifies drafts",
        ),
    }
    for flag, (is_given, reason) in reasons.items():
        if is_given:
            return f"{flag} is not supported with --mtp-steps: {reason}"
    return None
