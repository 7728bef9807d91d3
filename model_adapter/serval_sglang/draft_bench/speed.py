"""Speed of greedy answers of one engine, and how often its drafts are accepted meanwhile."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from tokenizers import Tokenizer

from serval_sglang.consistency.questions import Prompt
from serval_sglang.demo.acceptance import documented_prompts
from serval_sglang.verify.engine import Engine

_ACCEPTED = "serval_engine_accepted_tokens_total"
_PASSES = "serval_engine_verifications_total"


@dataclass(frozen=True, slots=True)
class Speed:
    """Figures of one batch size.

    - `tokens_per_s`: new tokens of all requests of the batch
    - `accepted`: for each position in a run of drafts, the share of passes in which it was accepted
    - `tokens_per_pass`: new tokens of one request in one pass, 1.0 without drafts
    """

    tokens_per_s: float
    accepted: tuple[float, ...]
    tokens_per_pass: float


def measure_speed(
    engine: Engine, prompts: Sequence[Prompt], *, batch: int, steps: int, new_tokens: int, repeats: int
) -> Speed:
    """Return the median over `repeats` answers of `new_tokens` to `batch` requests at once.

    `prompts` are repeated as the batch needs. They are in the prefix cache, so nearly all of the time is
    decoding. Raises `EngineFailed` if the engine refused a request.
    """
    asked = [list(prompt) for prompt in islice(cycle(prompts), batch)]
    answer_s(engine, asked, new_tokens=1)
    before = _counts(engine, steps)
    taken = [answer_s(engine, asked, new_tokens=new_tokens) for _ in range(repeats)]
    passes, *right = (after - earlier for after, earlier in zip(_counts(engine, steps), before, strict=True))
    accepted = tuple(count / max(passes, 1.0) for count in right)
    return Speed(batch * new_tokens / statistics.median(taken), accepted, 1.0 + sum(accepted))


def documented(model: Path) -> list[Prompt]:
    """Return the demo model's documented questions and calls, in the tokens of `model`."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return [tuple(tokenizer.encode(prompt.text).ids) for prompt in documented_prompts()]


def answer_s(engine: Engine, prompts: Sequence[Sequence[int]], *, new_tokens: int) -> float:
    """Return the seconds in which the engine continues all `prompts` at once. Raises `EngineFailed`."""
    sampling = {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True}
    begin = time.perf_counter()
    engine.post("/generate", {"input_ids": prompts, "sampling_params": sampling})
    return time.perf_counter() - begin


def _counts(engine: Engine, steps: int) -> list[float]:
    """Return passes so far, then accepted drafts by position."""
    positions = range(1, steps + 1)
    return [
        engine.metric_total(_PASSES),
        *(engine.metric_total(_ACCEPTED, position=str(position)) for position in positions),
    ]
