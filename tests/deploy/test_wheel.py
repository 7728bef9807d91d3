"""The wheel alone, with the packages that it requires and no others, serves as a gateway."""

import asyncio
import importlib.metadata
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from serval_testkit.gateway import API_KEY
from serval_testkit.operator_tools import ROOT
from serval_testkit.processes import running
from serval_testkit.stand_in_engine import StandInEngine

CHAT = {"model": "checkpoint", "messages": [{"role": "user", "content": "Hi"}]}


def required_distributions(name: str) -> Iterator[importlib.metadata.Distribution]:
    """Distributions that `name` requires without extras, and those that these require."""
    seen, waiting = set(), [(name, frozenset[str]())]
    while waiting:
        current, extras = waiting.pop()
        distribution = importlib.metadata.distribution(current)
        if current != name:
            yield distribution
        for text in distribution.requires or ():
            requirement = Requirement(text)
            marker = requirement.marker
            is_wanted = marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))
            wanted = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if is_wanted and wanted not in seen:
                seen.add(wanted)
                waiting.append(wanted)


def link_into(folder: Path, distribution: importlib.metadata.Distribution) -> None:
    """Link a distribution's packages, modules and metadata into a folder of packages."""
    for name in {
        file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")
    }:
        link = folder / name
        if not link.exists():
            link.symlink_to(Path(str(distribution.locate_file(name))))


def site_packages(environment: Path) -> Path:
    return next(environment.glob("lib/python*/site-packages"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A venv with the wheel, built from this checkout, and links to the packages that it requires."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    home = folder / "venv"
    venv.create(home, symlinks=True)
    install = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--offline",
        "--no-deps",
        "--link-mode=copy",
    ]
    subprocess.run([*install, "--python", home / "bin/python", *folder.glob("*.whl")], check=True)
    packages = next(home.glob("lib/python*/site-packages"))
    for distribution in required_distributions("serval-llm"):
        link_into(packages, distribution)
    return home


def serval(environment: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [environment / "bin/serval", *arguments]
    return subprocess.run(command, cwd="/", env={}, capture_output=True, text=True, check=False)


def test_wheel_tells_its_version(environment: Path) -> None:
    assert serval(environment, "--version").stdout == f"serval {importlib.metadata.version('serval-llm')}\n"


def test_wheel_has_the_suites_and_the_locks_of_their_harnesses(environment: Path) -> None:
    assert "gsm8k-sample" in serval(environment, "eval", "--list").stdout
    evaluation = site_packages(environment) / "serval/evaluation"
    assert {path.name for path in evaluation.glob("locks/*.lock")} == {"bfcl.lock", "lm-eval.lock"}
    assert {path.name for path in evaluation.glob("programs/*.py")} == {"bfcl_run.py", "lm_eval_run.py"}
    assert (evaluation / "samples/openai/gsm8k/main/test.jsonl").is_file()


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [(("serve",), "pip install 'serval-llm[engine]'"), (("chat",), "pip install 'serval-llm[chat]'")],
)
def test_wheel_names_the_extra_that_a_command_needs(
    environment: Path, arguments: tuple[str, ...], missing: str
) -> None:
    done = serval(environment, *arguments)
    assert done.returncode == 1
    assert missing in done.stderr


async def test_wheel_serves_as_a_gateway(environment: Path) -> None:
    model = site_packages(environment) / "serval_sglang/demo/checkpoint"
    async with StandInEngine(model_path=str(model)).running() as engine:
        command = [str(environment / "bin/serval"), "gateway", "--engine-url", engine.url, "--port", "0"]
        with running(command, cwd=Path("/"), environment={"SERVAL_API_KEY": API_KEY}) as program:
            line = await asyncio.to_thread(
                program.wait_for_line, lambda line: "gateway: serving" in line, timeout_s=180
            )
            url = line.split()[-1]
            headers = {"authorization": f"Bearer {API_KEY}"}
            async with aiohttp.ClientSession(headers=headers) as http:
                async with http.get(f"{url}/healthz") as response:
                    assert response.status == 200
                async with http.post(f"{url}/v1/chat/completions", json=CHAT) as response:
                    assert (await response.json())["choices"][0]["message"]["content"]
