"""Commands and log lines of the pages for GPUs, which cannot run without one but can be looked up."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serval_testkit.sglang_flags import SGLANG, argument_of, engine_arguments

ROOT = Path(__file__).resolve().parents[2]
FIRST_RUN = ROOT / "loadtests/FIRST_GPU_RUN.md"
PAGES = (FIRST_RUN, ROOT / "loadtests/GPU.md")
BENCHMARK = "python -m sglang.benchmark.serving"

# Programs of this repository, by their first words; their --help lists the options.
OWN = (
    "serval plan",
    "serval serve",
    "serval engine",
    "serval gateway",
    "serval doctor",
    "serval checkpoint inspect",
    "python -m serval_load load",
    "python -m serval_load fit",
    "python -m serval_load overhead",
    "python -m serval_load.gpu_check",
    "python -m serval_sglang.consistency",
    "python -m serval_sglang.draft_bench",
    "python -m serval_sglang.moe_tuning",
)
# Programs outside this environment; their options were checked by hand in the releases that the pages name.
ELSEWHERE = ("sgl-eval run", "lm-eval run", "bfcl generate", "bfcl evaluate", "nvidia-smi")
SHELL = ("export", "for", "done")
# Variables of `make gpu-check`, and the options that they become.
CHECK_VARIABLES = {"MINUTES": "--minutes", "MODEL": "--model", "OUT": "--out"}


def commands() -> Iterator[list[str]]:
    """Yield the words of each command in the pages, without leading variables and trailing `&`."""
    for block in re.findall(r"```bash\n(.*?)```", "".join(page.read_text() for page in PAGES), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            words = [word for word in words if word != "&"]
            if words[:1] == ["make"]:
                words = made(words[1], dict(word.split("=", 1) for word in words[2:]))
            if words[:1] == ["python3"]:
                words[0] = "python"
            if words[:4] == ["python", "-m", "serval_load", "overhead"]:
                # Options behind -- are those of the engine that it starts.
                end = words.index("--")
                yield ["serval", "engine", *words[end + 1 :]]
                words = words[:end]
            if words and words[0] not in SHELL:
                yield words


def made(target: str, variables: dict[str, str]) -> list[str]:
    """Return the command that a target of the Makefile runs, none for one without options."""
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()
    if target == "serve":
        return ["serval", "serve", *shlex.split(variables["ARGS"])]
    if target == "gpu-check":
        options = [word for name, value in variables.items() for word in (CHECK_VARIABLES[name], value)]
        return ["python", "-m", "serval_load.gpu_check", *options]
    assert not variables
    return []


def flags(words: list[str]) -> tuple[list[str], list[str]]:
    """Flags of the command itself, and those behind `--` for the engine."""
    end = words.index("--") if "--" in words else len(words)
    own, engine = words[:end], words[end + 1 :]
    return [word for word in own if word.startswith("--")], [word for word in engine if word.startswith("--")]


def program(words: list[str]) -> str:
    """Known program that the command starts. Raises `StopIteration` for an unknown one."""
    line = " ".join(words)
    return next(known for known in (*OWN, BENCHMARK, *ELSEWHERE) if f"{line} ".startswith(f"{known} "))


def test_page_commands_are_those_of_known_programs() -> None:
    found = {program(words) for words in commands()}
    assert found == {*OWN, BENCHMARK, *ELSEWHERE}


@pytest.mark.parametrize("name", OWN)
def test_page_options_of_own_programs_are_in_their_help(name: str) -> None:
    words = [word for word in name.split() if word != "python"]
    start = [sys.executable, *words] if words[0] == "-m" else [sys.executable, "-m", *words]
    told = subprocess.run([*start, "--help"], capture_output=True, text=True, check=True).stdout
    offered = set(re.findall(r"--[a-z][a-z-]*", told))
    asked = {flag for words in commands() if program(words) == name for flag in flags(words)[0]}
    assert asked <= offered


def test_page_options_of_sglang_benchmark_are_in_its_source() -> None:
    # Read the source: --help takes half a minute.
    offered = set(_added_options(SGLANG / "benchmark/serving.py"))
    asked = {flag for words in commands() if program(words) == BENCHMARK for flag in flags(words)[0]}
    assert asked
    assert asked <= offered


def test_page_options_behind_two_dashes_are_engine_arguments() -> None:
    asked = {flag for words in commands() for flag in flags(words)[1]}
    assert asked
    assert {argument_of(flag) for flag in asked} <= engine_arguments()


def _added_options(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            yield from (given.value for given in node.args if isinstance(given, ast.Constant))


def test_page_log_lines_are_in_the_source_of_sglang() -> None:
    section = FIRST_RUN.read_text().split("<!-- tests/loadtests/test_gpu_commands.py")[1].split("\n\n")[0]
    lines = re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE)
    assert len(lines) == 3
    source = "\n".join(path.read_text() for path in (SGLANG / "srt").rglob("*.py"))
    for line in lines:
        # Words that the program fills in.
        pattern = re.escape(line).replace("fa3", r"\{\w+\}").replace(r"target\ decode", r"\{\w+\}")
        assert re.search(pattern, source), line


def test_page_names_every_file_of_the_results() -> None:
    from serval_load.gpu_check import __main__, execution

    code = "".join(Path(str(module.__file__)).read_text() for module in (__main__, execution))
    files = re.findall(r"^\| `([\w.]+)` \|", FIRST_RUN.read_text(), re.MULTILINE)
    assert set(files) == {"report.md", "results.jsonl", "log.txt"}
    assert all(f'"{file}"' in code for file in files)


def test_page_explains_steps_that_exist() -> None:
    from serval_load.gpu_check.steps import STEPS

    names = {step.name for step in STEPS} | {step.group for step in STEPS}
    rows = re.findall(r"^\| ((?:kernels|adapter|full size)[^|]*) \|", FIRST_RUN.read_text(), re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        group, _, rest = row.partition(": ")
        parts = [row] if row in names else [f"{group}: {part}" for part in rest.split(", ")]
        assert set(parts) <= names, row
