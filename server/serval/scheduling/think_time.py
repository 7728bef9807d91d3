"""Estimate of the time that an agent takes between an answer and its next request."""

from dataclasses import dataclass
from typing import Final

# Seconds of silence that are usual while nothing is known, and bounds of a usual silence.
FIRST_LIMIT_S: Final = 15.0
LEAST_LIMIT_S: Final = 1.0
MOST_LIMIT_S: Final = 120.0
# Weights of the newest time, in the mean and in the deviation from it.
_MEAN: Final = 1 / 8
_DEVIATION: Final = 1 / 4
# Mean deviations beyond the mean. With times that are distributed exponentially one in 25 is longer.
_DEVIATIONS: Final = 3


@dataclass
class ThinkTime:
    """Mean and mean deviation, smoothed as TCP smooths round-trip times (RFC 6298, section 2)."""

    mean_s: float | None = None
    deviation_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Take over one time. More than `MOST_LIMIT_S` counts as that."""
        seconds = min(max(seconds, 0.0), MOST_LIMIT_S)
        if self.mean_s is None:
            self.mean_s, self.deviation_s = seconds, seconds / 2
            return
        self.deviation_s += _DEVIATION * (abs(seconds - self.mean_s) - self.deviation_s)
        self.mean_s += _MEAN * (seconds - self.mean_s)

    @property
    def limit_s(self) -> float:
        """Silence beyond which the agent is away for longer than it usually is."""
        if self.mean_s is None:
            return FIRST_LIMIT_S
        return min(max(self.mean_s + _DEVIATIONS * self.deviation_s, LEAST_LIMIT_S), MOST_LIMIT_S)
