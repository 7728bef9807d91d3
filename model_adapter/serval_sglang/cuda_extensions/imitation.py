"""An absent GPU's compute capability, reported by torch to whoever compiles for it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch


@contextmanager
def capability_of_target(major: int, minor: int) -> Iterator[None]:
    """Let torch report one device of this capability; enter it before SGLang or flashinfer is imported.

    Both ask torch which GPU to compile for, and SGLang chooses some flags by whether there is one at all. No
    other question is answered: nothing can be allocated or launched.
    """
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: (major, minor),
        # SGLang looks for another maker's devices in the name.
        "get_device_name": lambda device=None: "absent GPU",
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, answer))
        yield
