"""Compiling SGLang's functions at their first call, not at their definition.

`torch.compile` imports torch's compiler as soon as it decorates a function: two seconds of every start, for
functions that an engine on a CPU never calls.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import torch

Function = Callable[..., Any]


def defer_compilation() -> None:
    """Replace `torch.compile` with `deferred`."""
    torch.compile = deferred(torch.compile)


def deferred(compile_now: Function) -> Function:
    """Return a `torch.compile` that compiles functions at their first call, with `compile_now`.

    Modules and other callables are compiled immediately.
    """

    def compile_later(model: Any = None, **options: Any) -> Any:
        if model is None:
            return functools.partial(compile_later, **options)
        if not isinstance(model, types.FunctionType):
            return compile_now(model, **options)
        compiled = functools.cache(lambda: compile_now(model, **options))

        @functools.wraps(model)
        def compile_and_call(*arguments: Any, **named: Any) -> Any:
            return compiled()(*arguments, **named)

        return compile_and_call

    return compile_later
