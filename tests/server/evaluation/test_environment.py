"""Locked environments: built once, by the installed uv."""

import json
import subprocess
from pathlib import Path

import pytest

from serval.evaluation import environment
from serval.evaluation.environment import prepare
from serval.evaluation.error import EvaluationError


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "locks"
    folder.mkdir()
    monkeypatch.setattr(environment, "_LOCKS", folder)
    return folder


def test_prepare_builds_once_and_anew_for_another_lock(locks: Path, tmp_path: Path) -> None:
    said: list[str] = []
    (locks / "none.lock").write_text("# no package\n")
    python = prepare("none", tmp_path / "cache", say=said.append)
    listed = subprocess.run(
        [python, "-c", "import json, sys; print(json.dumps([sys.prefix, sys.version_info[:2]]))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(listed.stdout)[0] == str(python.parents[1])
    assert prepare("none", tmp_path / "cache", say=said.append) == python
    assert len(said) == 1
    (locks / "none.lock").write_text("# another\n")
    assert prepare("none", tmp_path / "cache", say=said.append) != python


def test_prepare_leaves_no_environment_that_is_not_complete(locks: Path, tmp_path: Path) -> None:
    (locks / "bad.lock").write_text("no-hash==1\n")
    for _ in range(2):
        with pytest.raises(EvaluationError, match="could not be installed"):
            prepare("bad", tmp_path / "cache", say=lambda _: None)


def test_prepare_says_how_to_get_uv(locks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (locks / "none.lock").write_text("")
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EvaluationError, match=r"serval-llm\[eval\]"):
        prepare("none", tmp_path / "cache", say=lambda _: None)
