"""`run.json`: a folder holds one run."""

from pathlib import Path

import msgspec
import pytest

from serval.evaluation.error import EvaluationError
from serval.evaluation.manifest import keep
from serval_testkit.evaluation import MANIFEST


def test_keep_goes_on_with_the_same_run(tmp_path: Path) -> None:
    assert keep(tmp_path, MANIFEST) == MANIFEST
    moved = msgspec.structs.replace(MANIFEST, url="http://other/v1", started="later", concurrency=1)
    expected = msgspec.structs.replace(moved, started=MANIFEST.started)
    assert keep(tmp_path, moved) == expected
    assert keep(tmp_path, MANIFEST) == MANIFEST


@pytest.mark.parametrize("change", [{"temperature": 0.5}, {"checkpoint": "sha256:2"}, {"tasks": ("b",)}])
def test_keep_refuses_another_run(tmp_path: Path, change: dict[str, object]) -> None:
    keep(tmp_path, MANIFEST)
    (name,) = change
    with pytest.raises(EvaluationError, match=f"other settings: {name} is"):
        keep(tmp_path, msgspec.structs.replace(MANIFEST, **change))


def test_keep_says_that_a_manifest_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(EvaluationError, match="is damaged"):
        keep(tmp_path, MANIFEST)
