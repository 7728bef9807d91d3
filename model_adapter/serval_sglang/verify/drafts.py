"""Comparison of an engine's drafts with those of the checkpoint's multi-token-prediction layer, by number.

A wrong draft is not accepted, so it changes no answer: only the numbers of verify passes and of right drafts
show that an engine drafts as the checkpoint defines.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from serval_sglang.reference import ReferenceModel
from serval_sglang.reference.mtp import MtpLayer
from serval_sglang.reference.speculation import decode_speculatively, mtp_drafter
from serval_sglang.verify.cases import Prompts
from serval_sglang.verify.engine import Engine

_NEW_TOKENS = 40
_PROMPT_LENGTHS = (1, 4, 9, 14, 19, 24)


@dataclass(frozen=True, slots=True)
class DraftedText:
    """Greedy text, and how many verify passes had how many right drafts, from none on."""

    tokens: Sequence[int]
    passes_by_right_drafts: Sequence[int]

    @property
    def passes(self) -> int:
        return sum(self.passes_by_right_drafts)

    @property
    def right(self) -> int:
        return sum(right * passes for right, passes in enumerate(self.passes_by_right_drafts))


@dataclass(frozen=True, slots=True)
class DraftComparison:
    """Sums over the requests to which engine and reference gave the same text.

    `other_texts` counts the others: a router's tie in float32, rounding in bfloat16. `other_drafts` counts
    requests with the same text and other numbers.
    """

    requests: int
    other_texts: int
    other_drafts: int
    passes: int
    right: int
    reference_passes: int
    reference_right: int

    @property
    def agrees(self) -> bool:
        """True if the drafts of all requests that could be compared agree, of which there are some."""
        return self.other_drafts == 0 and self.other_texts < self.requests


def compare_drafts(
    engine: Engine, reference: ReferenceModel, layer: MtpLayer, *, steps: int, seed: int = 0
) -> DraftComparison:
    """Compare greedy decoding with `steps` drafts at a time after some random prompts.

    Raises `EngineFailed` if the engine refused a request.
    """
    prompts = Prompts(reference.config, seed)
    pairs = []
    for number, length in enumerate(_PROMPT_LENGTHS):
        prompt = prompts.make(length, seed=180 + number)
        pairs.append((draft_text(engine, prompt), reference_text(reference, layer, prompt, steps=steps)))
    same = [(found, expected) for found, expected in pairs if found.tokens == expected.tokens]
    return DraftComparison(
        requests=len(pairs),
        other_texts=len(pairs) - len(same),
        other_drafts=sum(found != expected for found, expected in same),
        passes=sum(found.passes for found, _ in same),
        right=sum(found.right for found, _ in same),
        reference_passes=sum(expected.passes for _, expected in same),
        reference_right=sum(expected.right for _, expected in same),
    )


def draft_text(engine: Engine, prompt: Sequence[int]) -> DraftedText:
    """Return the engine's greedy text after `prompt`, ends of sequence included."""
    parameters = {"temperature": 0, "max_new_tokens": _NEW_TOKENS, "ignore_eos": True}
    answer = engine.post("/generate", {"input_ids": list(prompt), "sampling_params": parameters})
    # A histogram without drafts, of an engine that was started without them, is left out.
    histogram = answer["meta_info"].get("spec_correct_drafts_histogram", [])
    return DraftedText(answer["output_ids"], histogram)


def reference_text(
    reference: ReferenceModel, layer: MtpLayer, prompt: Sequence[int], *, steps: int
) -> DraftedText:
    """Return the same by the definition."""
    run = decode_speculatively(
        reference,
        prompt,
        mtp_drafter(reference, layer, steps=steps),
        steps=steps,
        max_new_tokens=_NEW_TOKENS,
        stop_tokens=(),
    )
    counted = Counter(run.accepted)
    return DraftedText(run.tokens, [counted[right] for right in range(max(counted, default=-1) + 1)])
