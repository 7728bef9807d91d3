from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from serval_testkit.triton_device import poisoned_memory

# The interpreter takes about ten milliseconds per launch: no deadline, few examples.
settings.register_profile("kernels", deadline=None, max_examples=50)
settings.load_profile("kernels")


@pytest.fixture(autouse=True, scope="module")
def _outputs_start_poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield
