"""Files that other tools would run are found under any name."""

import json
from pathlib import Path

import pytest

from serval_sglang.checkpoint.files import CheckpointError, list_files
from serval_sglang.checkpoint.safety import UnsafeFile, refuse_unsafe_files, unsafe_files

AUTO_MAP = {"auto_map": {"AutoModel": "modeling_longcat_ngram.LongcatFlashNgramModel"}}


def found(directory: Path) -> list[UnsafeFile]:
    return unsafe_files(directory, list_files(directory))


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "model.PT", "model.pth", "x.pkl", "x.pickle", "last.ckpt", "old/training_args.bin"],
)
def test_unsafe_files_finds_pickles(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert found(tmp_path) == [UnsafeFile(name, "pickle")]


@pytest.mark.parametrize("name", ["modeling_longcat_ngram.py", "kernels.so", "cached.pyc"])
def test_unsafe_files_finds_code(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert found(tmp_path) == [UnsafeFile(name, "remote-code")]


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_unsafe_files_finds_references_to_code(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps(AUTO_MAP))
    assert found(tmp_path) == [UnsafeFile(name, "remote-code")]


def test_unsafe_files_accepts_plain_checkpoint(tmp_path: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json", "README.md", "chat_template.jinja"):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {}}))
    (tmp_path / "generation_config.json").write_text("no JSON")
    (tmp_path / "tokenizer.json").write_text(json.dumps(AUTO_MAP))
    assert found(tmp_path) == []
    refuse_unsafe_files(tmp_path, list_files(tmp_path))


def test_refuse_unsafe_files_allows_each_hazard_separately(tmp_path: Path) -> None:
    (tmp_path / "modeling.py").touch()
    (tmp_path / "model.bin").touch()
    files = list_files(tmp_path)
    with pytest.raises(CheckpointError, match=r"2 files .* --allow pickle --allow remote-code"):
        refuse_unsafe_files(tmp_path, files)
    with pytest.raises(CheckpointError, match=r"1 files .* model\.bin: a pickle .* --allow pickle to accept"):
        refuse_unsafe_files(tmp_path, files, allowed=["remote-code"])
    refuse_unsafe_files(tmp_path, files, allowed=["remote-code", "pickle"])
