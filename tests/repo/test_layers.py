"""Order of the packages inside `serval` and `serval_sglang`: each imports only those listed before it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from serval_testkit.repository import ROOT

FOLDERS = {
    "serval": ROOT / "server" / "serval",
    "serval_sglang": ROOT / "model_adapter" / "serval_sglang",
}
# From the ground floor up.
LAYERS = {
    "serval": (
        "errors",
        "workload_files",
        "setting_names",
        "settings_file",
        "setting_fields",
        "batch_setting_fields",
        "settings",
        "schema",
        "tools",
        "grammar",
        "siblings",
        "chat",
        "http",
        "caller",
        "telemetry",
        "store",
        "engine",
        "scheduling",
        "wire",
        "limits",
        "usage",
        "auth",
        "batches",
        "live_settings",
        "doctor",
        "api",
        "console",
        "app",
        "process",
        "terminal",
        "talk",
        "agents",
        "clients",
        "evaluation",
        "cli",
        "__main__",
    ),
    "serval_sglang": (
        "settings",
        "machine_part",
        "options",
        "config",
        "known_configs",
        "siblings",
        "tuned_moe",
        "metrics",
        "reference",
        "checkpoint",
        "transformers",
        "layers",
        "weights",
        "drafts",
        "models",
        "cpu_compat",
        "plugin",
        "demo",
        "plan",
        "gpu_memory",
        "cuda_driver",
        "memory_check",
        "preflight",
        "gpu_flags",
        "cuda_toolkit",
        "kernel_cache",
        "supervision",
        "readiness",
        "warm_up",
        "engine_process",
        "launch",
        "verify",
        "consistency",
        "bench",
        "draft_bench",
        "moe_tuning",
        "cli",
        "cuda_extensions",
    ),
}


def modules(package: str) -> Iterator[Path]:
    # The stand-ins are packages of their own, found by PYTHONPATH.
    return (path for path in FOLDERS[package].rglob("*.py") if "standin_packages" not in path.parts)


def layer_of(module: Path, package: str) -> str:
    return module.relative_to(FOLDERS[package]).with_suffix("").parts[0]


def imported_layers(module: Path, package: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            names = [f"{package}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith(f"{package}."))


@pytest.mark.parametrize("package", LAYERS)
def test_layers_name_every_package_and_module(package: str) -> None:
    present = {layer_of(module, package) for module in modules(package)} - {"__init__"}
    assert present == set(LAYERS[package])


@pytest.mark.parametrize(
    ("package", "layer"), [(package, layer) for package, layers in LAYERS.items() for layer in layers]
)
def test_layer_imports_only_layers_below(package: str, layer: str) -> None:
    layers = LAYERS[package]
    below = set(layers[: layers.index(layer)])
    for module in modules(package):
        if layer_of(module, package) == layer:
            above = set(imported_layers(module, package)) - below - {layer}
            assert not above, f"{module.relative_to(FOLDERS[package])} imports {', '.join(sorted(above))}"
