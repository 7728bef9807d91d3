"""How long it takes until all is well again after a fault: tests note it, none depends on it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Recoveries:
    """`with recoveries("what is over"):` around the waiting for what must be well again."""

    seconds: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds.append((what, time.monotonic() - began))
