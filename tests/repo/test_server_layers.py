"""Order of the packages inside `serval`: each imports only packages further up in this list."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = Path(__file__).resolve().parents[2] / "server" / "serval"

# From the ground floor up. A package or module may import what stands before it, never what stands behind it.
LAYERS = (
    "errors",
    "settings",
    "schema",
    "tools",
    "grammar",
    "chat",
    "http",
    "caller",
    "telemetry",
    "store",
    "engine",
    "scheduling",
    "wire",
    "limits",
    "auth",
    "live_settings",
    "doctor",
    "api",
    "app",
    "process",
    "cli",
    "__main__",
)


def layer_of(module: Path) -> str:
    return module.relative_to(SERVER).with_suffix("").parts[0]


def imported_layers(module: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "serval":
            names = [f"serval.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("serval."))


def test_layers_name_every_package_and_module() -> None:
    present = {layer_of(module) for module in SERVER.rglob("*.py")} - {"__init__"}
    assert present == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_imports_only_layers_below(layer: str) -> None:
    below = set(LAYERS[: LAYERS.index(layer)])
    for module in SERVER.rglob("*.py"):
        if layer_of(module) == layer:
            above = set(imported_layers(module)) - below - {layer}
            assert not above, f"{module.relative_to(SERVER)} imports {', '.join(sorted(above))}"
