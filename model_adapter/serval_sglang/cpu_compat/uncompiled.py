"""Running SGLang's functions as they are written, without torch's compiler.

On a CPU the compiler takes seconds of every start: `torch.compile` imports it as soon as it decorates a
function, and each scheduler has C++ compiled for a few small ones, from which small models gain nothing.
"""

import functools
from typing import Any

import torch


def leave_functions_uncompiled() -> None:
    """Replace `torch.compile` with `uncompiled`."""
    torch.compile = uncompiled


def uncompiled(model: Any = None, **options: Any) -> Any:
    """Return a function or module as it is; without one, a decorator that does so."""
    return functools.partial(uncompiled, **options) if model is None else model
