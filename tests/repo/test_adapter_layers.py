"""Order of the packages inside `serval_sglang`: each imports only packages further up in this list."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ADAPTER = Path(__file__).resolve().parents[2] / "model_adapter" / "serval_sglang"

# From the ground floor up. A package or module may import what stands before it, never what stands behind it.
LAYERS = (
    "settings",
    "options",
    "config",
    "known_configs",
    "metrics",
    "reference",
    "checkpoint",
    "layers",
    "weights",
    "models",
    "cpu_compat",
    "plugin",
    "demo",
    "plan",
    "gpu_flags",
    "supervision",
    "readiness",
    "engine_process",
    "launch",
    "verify",
    "bench",
    "cli",
)


def modules() -> Iterator[Path]:
    # The stand-ins are packages of their own, found by PYTHONPATH.
    return (path for path in ADAPTER.rglob("*.py") if "standin_packages" not in path.parts)


def layer_of(module: Path) -> str:
    return module.relative_to(ADAPTER).with_suffix("").parts[0]


def imported_layers(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "serval_sglang":
            names = [f"serval_sglang.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("serval_sglang."))


def test_layers_name_every_package_and_module() -> None:
    present = {layer_of(module) for module in modules()} - {"__init__"}
    assert present == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_imports_only_layers_below(layer: str) -> None:
    below = set(LAYERS[: LAYERS.index(layer)])
    for module in modules():
        if layer_of(module) == layer:
            above = set(imported_layers(module)) - below - {layer}
            assert not above, f"{module.relative_to(ADAPTER)} imports {', '.join(sorted(above))}"
