"""Choice of the number of draft steps from measurements: the one that gives most tokens a second.

Tokens a pass follow from the acceptance of the drafts, seconds a pass are measured for each number of steps
and each size of the running batch (1, 2, 3-4, 5-8, ...), because a pass over more tokens costs almost nothing
in a small batch and its full price in a large one. A number of steps that is not in use is tried for a few
passes from time to time, less and less often while it does not win.

A pass without drafts is cheapest if the layer does not run either. Then it has not seen the tokens of that
pass, so that its next drafts are worse; it runs again a few passes before drafts may begin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from serval_sglang.drafts.acceptance import Acceptance

# Passes that make one measurement. Their median is taken: some passes wait for a prefill or for requests.
WINDOW = 16
# By how much another number of steps has to be faster before it is chosen.
MARGIN = 1.03
# Measurements of the steps in use between two trials of others: at first, and at most.
PATIENCE = 8
MOST_PATIENCE = 128
# Passes without drafts in which the layer runs before drafts may begin. Few enough to leave the median alone.
LEAD = 4


def _as_measured(seconds: float) -> float:
    return seconds


@dataclass
class _Size:
    """State of the batches of one size. `chosen` steps are in use, unless those of a `trial` are."""

    chosen: int
    trial: int | None = None
    seconds: dict[int, float] = field(default_factory=dict)
    measured_at: dict[int, int] = field(default_factory=dict)
    window: list[float] = field(default_factory=list)
    measurements: int = 0
    since_trial: int = 0
    patience: int = PATIENCE

    @property
    def steps(self) -> int:
        return self.chosen if self.trial is None else self.trial


class StepsController:
    """Chooses the steps of each pass among `candidates`; begins with the most.

    `agree` returns one value for all ranks, which time passes differently, and which must choose alike: they
    call it in the same order, because it depends on counts alone when it is called.
    """

    def __init__(self, candidates: Sequence[int], *, agree: Callable[[float], float] = _as_measured) -> None:
        self._candidates = sorted(set(candidates), reverse=True)
        self._acceptance = Acceptance(self._candidates[0])
        self._agree = agree
        self._sizes: dict[int, _Size] = {}

    def steps(self, batch_size: int) -> int:
        """Return the steps of the next pass over `batch_size` requests."""
        return self._size(batch_size).steps

    def layer_runs_without_drafts(self, batch_size: int) -> bool:
        """Return True if the layer takes in the tokens of the next pass even if that has no drafts: others
        than no steps may be in use `LEAD` passes later, as a trial or after one."""
        size = self._size(batch_size)
        is_change_due = size.trial is not None or size.since_trial + 1 >= size.patience
        return is_change_due and len(size.window) >= WINDOW - LEAD

    def observe(self, batch_size: int, steps: int, accepted: Sequence[int], seconds: float) -> None:
        """Take in a finished pass: its steps, the right drafts of each request, and how long it took."""
        self._acceptance.update(steps, accepted)
        size = self._size(batch_size)
        if steps != size.steps:
            return  # launched before the last change
        size.window.append(seconds)
        if len(size.window) == WINDOW:
            self._measure(size)
            self._choose(size)

    def _size(self, batch_size: int) -> _Size:
        return self._sizes.setdefault((batch_size - 1).bit_length(), _Size(self._candidates[0]))

    def _measure(self, size: _Size) -> None:
        size.seconds[size.steps] = self._agree(median(size.window))
        size.window.clear()
        size.measurements += 1
        size.measured_at[size.steps] = size.measurements

    def _choose(self, size: _Size) -> None:
        was_trial, size.trial = size.trial is not None, None
        size.since_trial = 0 if was_trial else size.since_trial + 1
        untried = [steps for steps in self._candidates if steps not in size.seconds]
        best = max(size.seconds, key=lambda steps: self._rate(size, steps))
        if self._rate(size, best) > MARGIN * self._rate(size, size.chosen):
            size.chosen, size.patience = best, PATIENCE
        elif was_trial:
            size.patience = min(2 * size.patience, MOST_PATIENCE)
        if untried:
            size.trial, size.patience = untried[0], PATIENCE
        elif size.since_trial >= size.patience and len(self._candidates) > 1:
            others = [steps for steps in self._candidates if steps != size.chosen]
            size.trial = min(others, key=size.measured_at.__getitem__)

    def _rate(self, size: _Size, steps: int) -> float:
        """Return the tokens a second of each request."""
        return self._acceptance.tokens_per_pass(steps) / size.seconds[steps]
