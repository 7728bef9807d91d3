"""Options of the commands in GPU.md, which cannot run without a GPU but can be looked up."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "loadtests/GPU.md"
SGLANG = Path(str(distribution("sglang").locate_file("sglang")))
BENCHMARK = "python -m sglang.benchmark.serving"

# Programs of this repository, by their first words; their --help lists the options.
OWN = (
    "serval plan",
    "serval serve",
    "serval engine",
    "serval gateway",
    "python -m serval_load load",
    "python -m serval_load fit",
    "python -m serval_load overhead",
    "python -m serval_sglang.bench",
    "python -m serval_sglang.moe_tuning",
)
# Programs outside this environment; their options were checked by hand in the releases that the guide names.
ELSEWHERE = ("sgl-eval run", "lm-eval run", "bfcl generate", "bfcl evaluate")
SHELL = ("export", "for", "done")


def commands() -> Iterator[list[str]]:
    """Yield the words of each command in the guide, without leading variables and trailing `&`."""
    for block in re.findall(r"```bash\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words[:2] == ["make", "serve"]:
                flags = next(word for word in words if word.startswith("ARGS="))
                words = ["serval", "serve", *shlex.split(flags.removeprefix("ARGS="))]
            words = [word for word in words if word != "&"]
            if words[:4] == ["python", "-m", "serval_load", "overhead"]:
                # Options behind -- are those of the engine that it starts.
                end = words.index("--")
                yield ["serval", "engine", *words[end + 1 :]]
                words = words[:end]
            if words and words[0] not in SHELL:
                yield words


def flags(words: list[str]) -> tuple[list[str], list[str]]:
    """Flags of the command itself, and those behind `--` for the engine."""
    end = words.index("--") if "--" in words else len(words)
    own, engine = words[:end], words[end + 1 :]
    return [word for word in own if word.startswith("--")], [word for word in engine if word.startswith("--")]


def program(words: list[str]) -> str:
    """Known program that the command starts. Raises `StopIteration` for an unknown one."""
    line = " ".join(words)
    return next(known for known in (*OWN, BENCHMARK, *ELSEWHERE) if f"{line} ".startswith(f"{known} "))


def test_guide_commands_are_those_of_known_programs() -> None:
    found = {program(words) for words in commands()}
    assert found == {*OWN, BENCHMARK, *ELSEWHERE}


@pytest.mark.parametrize("name", OWN)
def test_guide_options_of_own_programs_are_in_their_help(name: str) -> None:
    words = [word for word in name.split() if word != "python"]
    start = [sys.executable, *words] if words[0] == "-m" else [sys.executable, "-m", *words]
    told = subprocess.run([*start, "--help"], capture_output=True, text=True, check=True).stdout
    offered = set(re.findall(r"--[a-z][a-z-]*", told))
    asked = {flag for words in commands() if program(words) == name for flag in flags(words)[0]}
    assert asked <= offered


def test_guide_options_of_sglang_benchmark_are_in_its_source() -> None:
    # Read the source: --help takes half a minute.
    offered = set(_added_options(SGLANG / "benchmark/serving.py"))
    asked = {flag for words in commands() if program(words) == BENCHMARK for flag in flags(words)[0]}
    assert asked
    assert asked <= offered


def test_guide_options_behind_two_dashes_are_engine_arguments() -> None:
    tree = [ast.parse(path.read_text()) for path in (SGLANG / "srt/arg_groups").rglob("*.py")]
    fields = {
        node.target.id
        for module in tree
        for node in ast.walk(module)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    asked = {flag for words in commands() for flag in flags(words)[1]}
    assert asked
    assert {flag.removeprefix("--").replace("-", "_") for flag in asked} <= fields


def _added_options(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            yield from (given.value for given in node.args if isinstance(given, ast.Constant))
