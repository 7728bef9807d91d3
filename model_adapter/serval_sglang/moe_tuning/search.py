"""Search for the fastest launch: one parameter is changed at a time, until no change is faster."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

Launch = Mapping[str, int]
Axes = Mapping[str, Sequence[int]]

# In the order in which they are changed, the most effective first. The range is that of SGLang's own script.
BF16_AXES: Axes = {
    "BLOCK_SIZE_M": (16, 32, 64, 128),
    "BLOCK_SIZE_N": (32, 64, 128, 256),
    "BLOCK_SIZE_K": (32, 64, 128, 256),
    "num_warps": (4, 8),
    "num_stages": (2, 3, 4, 5),
    "GROUP_SIZE_M": (1, 8, 16, 32, 64),
}
# A step along K must not cross blocks of 128 x 128 that share a scale.
FP8_AXES: Axes = {**BF16_AXES, "BLOCK_SIZE_K": (32, 64, 128)}

# Triton's own for an NVIDIA GPU, which SGLang's default launches leave unsaid.
_TRITON_DEFAULTS = {"num_warps": 4, "num_stages": 3}


@dataclass
class Trials:
    """Seconds of each launch that was tried, None for one that was rejected."""

    seconds: dict[tuple[tuple[str, int], ...], float | None] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        return sum(taken is None for taken in self.seconds.values())

    def fastest(self) -> tuple[Launch, float] | None:
        """Return the fastest launch and its seconds; None if all were rejected."""
        right = [(taken, launch) for launch, taken in self.seconds.items() if taken is not None]
        if not right:
            return None
        taken, launch = min(right)
        return dict(launch), taken


def spelled_out(launch: Launch) -> Launch:
    """Return the launch with all parameters that the search changes."""
    return {**_TRITON_DEFAULTS, **launch}


def search(
    starts: Iterable[Launch],
    axes: Axes,
    measure: Callable[[Launch], float | None],
    is_over: Callable[[], bool],
) -> Trials:
    """Measure launches until no change of one parameter is faster, or the time is over.

    `measure` returns seconds, or None for a launch that fails or gives a wrong result. `starts` are measured
    first, and the fastest of them is improved.
    """
    trials = Trials()

    def try_all(launches: Iterable[Launch]) -> None:
        for launch in launches:
            key = tuple(sorted(launch.items()))
            if key not in trials.seconds and not is_over():
                trials.seconds[key] = measure(launch)

    try_all(map(spelled_out, starts))
    before = None
    while (best := trials.fastest()) is not None and best != before and not is_over():
        before = best
        for name, values in axes.items():
            launch, _ = trials.fastest() or best
            try_all({**launch, name: value} for value in values)
    return trials
