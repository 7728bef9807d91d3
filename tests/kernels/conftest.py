"""Keeps the tests of Triton kernels out of processes that cannot run kernels.

Whether kernels are interpreted is decided when Triton is imported, for the whole process and its children:
SGLang's engine, started by other tests, would have its kernels interpreted as well. So nothing is set here;
`test_interpreted_kernels.py` runs that folder in a pytest of its own. On a machine with a GPU it is collected
as it stands, and runs there.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from serval_kernels.launch import INTERPRETED

collect_ignore = [] if INTERPRETED or torch.cuda.is_available() else ["on_triton"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Tensors here are small: on a busy machine more threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
