"""Time to recover from a fault: recorded by tests, but never asserted."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Recoveries:
    """Recovery times. Wrap the wait for a recovery in `with recoveries("name of the fault"):`."""

    seconds: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds.append((what, time.monotonic() - began))
