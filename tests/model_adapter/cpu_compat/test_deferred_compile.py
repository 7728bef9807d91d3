"""Functions are compiled at their first call, and compute what they would have computed."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch

from serval_sglang.cpu_compat.deferred_compile import deferred


def double(x: torch.Tensor) -> torch.Tensor:
    """The doubled tensor."""
    return x * 2


def test_deferred_compiles_at_the_first_call_and_once() -> None:
    compiled: list[dict[str, Any]] = []

    def compile_now(model: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        compiled.append(options)
        return model

    decorated = deferred(compile_now)(dynamic=True)(double)
    assert compiled == []
    assert (decorated(3), decorated(4)) == (6, 8)
    assert compiled == [{"dynamic": True}]


def test_deferred_keeps_name_and_docstring() -> None:
    decorated = deferred(torch.compile)(double)
    assert (decorated.__name__, decorated.__doc__) == ("double", "The doubled tensor.")


def test_deferred_function_is_compiled_by_torch() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    decorated = deferred(torch.compile)(backend=backend)(double)
    assert torch.equal(decorated(torch.ones(3)), torch.full((3,), 2.0))
    assert len(graphs) == 1


def test_deferred_compiles_modules_at_once() -> None:
    compiled = deferred(lambda model, **options: ("compiled", model))
    module = torch.nn.Linear(1, 1)
    assert compiled(module) == ("compiled", module)


def test_definition_imports_no_compiler() -> None:
    program = (
        "import sys, torch; from serval_sglang.cpu_compat.deferred_compile import defer_compilation;"
        "defer_compilation(); torch.compile(dynamic=True)(lambda x: x);"
        "sys.exit('torch._inductor.compile_fx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
