"""Layout of the repository: one package per folder, imports in one direction, small modules."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from serval_testkit.repository import ROOT, tracked_files

PACKAGES = {
    "serval": ROOT / "server" / "serval",
    "serval_sglang": ROOT / "model_adapter" / "serval_sglang",
    "serval_kernels": ROOT / "kernels" / "serval_kernels",
    # Never in the wheel.
    "serval_load": ROOT / "loadtests" / "serval_load",
}
SHIPPED = [package for package in PACKAGES if package != "serval_load"]
# package -> top-level modules it must not import. `plugin.parsers` may use the gateway's tool parser,
# and `serval plan --trace` its reader of workload files.
FORBIDDEN_IMPORTS = {
    "serval": {"torch", "triton", "sglang", "transformers", "serval_sglang", "serval_kernels", "serval_load"},
    "serval_sglang": {"serval", "serval_load"},
    "serval_kernels": {"sglang", "transformers", "serval", "serval_sglang", "serval_load"},
    "serval_load": {"torch", "triton", "sglang", "transformers", "serval_sglang", "serval_kernels"},
}
ALLOWED_IMPORTS = {
    ("serval_sglang/plugin/parsers.py", "serval.tools"),
    ("serval_sglang/plugin/parsers.py", "serval.grammar"),
    ("serval_sglang/plugin/parsers.py", "serval.schema"),
    ("serval_sglang/cli/plan_trace.py", "serval.workload_files"),
    ("serval_sglang/plan/choices.py", "serval.workload_files"),
    ("serval_sglang/plan/prediction.py", "serval.workload_files"),
}
MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 70


def modules(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def all_modules() -> list[Path]:
    return [module for package in PACKAGES for module in modules(package)]


def imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


@pytest.mark.parametrize("package", SHIPPED)
def test_code_folder_exposes_only_its_package(package: str) -> None:
    folder = PACKAGES[package].parent
    # Anything importable beside the package would become a top-level module of every installation.
    strays = {path for path in tracked_files(f"{folder.name}/*.py") if path.parent == folder}
    packages = {path.parent for path in tracked_files(f"{folder.name}/*/__init__.py")}
    assert strays == set()
    assert {package for package in packages if package.parent == folder} == {PACKAGES[package]}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_in_one_direction(package: str) -> None:
    for path in modules(package):
        for name in imported_names(ast.parse(path.read_text())):
            where = path.relative_to(PACKAGES[package].parent).as_posix()
            if any(where == module and name.startswith(allowed) for module, allowed in ALLOWED_IMPORTS):
                continue
            assert name.split(".")[0] not in FORBIDDEN_IMPORTS[package], f"{where} imports {name}"


@pytest.mark.parametrize("path", all_modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_environment_is_read_in_settings_only(path: Path) -> None:
    text = path.read_text()
    # Few modules need to be parsed for this.
    if path.name == "settings.py" or not re.search("environ|getenv", text):
        return
    reads = [
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute)
        and node.attr in {"environ", "environb", "getenv"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ]
    assert not reads, f"{path.relative_to(ROOT)} reads the environment in lines {reads}"


@pytest.mark.parametrize("path", all_modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    length = len(text.splitlines())
    assert length <= MAX_MODULE_LINES
    if length <= MAX_FUNCTION_LINES:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{node.name} has {lines} lines"


def test_files_hold_no_placeholder_or_path_of_one_machine() -> None:
    # Built from pieces, so that this file does not match.
    pieces = [("/ro", "ot/"), ("/wo", "rk/"), ("TO", "DO"), ("FIX", "ME"), ("your", "username")]
    forbidden = re.compile("|".join("".join(pair) for pair in pieces))
    for path in tracked_files("*.py", "*.md", "*.toml", "*.sh", "*.yaml", "*.yml", "Makefile", ".ci/run"):
        found = forbidden.search(path.read_text(errors="replace"))
        assert not found, f"{path.relative_to(ROOT)} holds {found.group()!r}" if found else ""
