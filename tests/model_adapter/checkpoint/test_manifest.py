"""A manifest pins every file of a directory, in the format of sha256sum."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from serval_sglang.checkpoint.files import CheckpointError, list_files
from serval_sglang.checkpoint.manifest import (
    MANIFEST_FILE,
    Difference,
    compare,
    file_digests,
    read_manifest,
    write_manifest,
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "original").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "original" / "notes 1.txt").write_text("ü")
    # More than one chunk, so that the digest spans chunks.
    (directory / "model.safetensors").write_bytes(bytes(range(256)) * 40_000)
    return directory


def test_file_digests_cover_whole_files(directory: Path) -> None:
    files = list_files(directory)
    seen: list[int] = []
    digests = file_digests(directory, files, threads=3, on_progress=seen.append)
    assert list(digests) == ["config.json", "model.safetensors", "original/notes 1.txt"]
    for file, digest in digests.items():
        assert digest == hashlib.sha256((directory / file).read_bytes()).hexdigest()
    assert sum(seen) == sum((directory / file).stat().st_size for file in files)


def test_file_digests_stop_when_interrupted(directory: Path) -> None:
    reads: list[int] = []

    def interrupt(size_bytes: int) -> None:
        reads.append(size_bytes)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file_digests(directory, list_files(directory), threads=1, on_progress=interrupt)
    assert len(reads) == 1


def test_manifest_is_compatible_with_sha256sum(directory: Path) -> None:
    digests = file_digests(directory, list_files(directory), threads=1)
    manifest = directory / MANIFEST_FILE
    own_digest = write_manifest(manifest, digests)
    assert own_digest == hashlib.sha256(manifest.read_bytes()).hexdigest()
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", MANIFEST_FILE], cwd=directory, check=True)
    for mode in ("--text", "--binary"):
        command = ["sha256sum", mode, *digests]
        manifest.write_bytes(subprocess.run(command, cwd=directory, check=True, capture_output=True).stdout)
        assert read_manifest(manifest) == digests


def test_compare_distinguishes_changed_missing_and_extra() -> None:
    pinned = {"a": "1" * 64, "b": "2" * 64, "c": "3" * 64}
    found = {"a": "1" * 64, "b": "9" * 64}
    assert compare(pinned, found, extra=["d"]) == Difference(("b",), ("c",), ("d",))
    assert compare(pinned, found, extra=["d"])
    assert not compare(pinned, dict(pinned), extra=[])


@pytest.mark.parametrize(
    "line",
    [
        f"{'a' * 64}  ../elsewhere",
        f"{'a' * 64}  folder/../../elsewhere",
        f"{'a' * 64}  /etc/passwd",
        f"{'a' * 63}  config.json",
        f"{'a' * 64}",
        "",
        f"SHA256 (config.json) = {'a' * 64}",
    ],
)
def test_read_manifest_refuses_invalid_line(tmp_path: Path, line: str) -> None:
    manifest = tmp_path / MANIFEST_FILE
    manifest.write_text(f"{'b' * 64}  config.json\n{line}\n")
    with pytest.raises(CheckpointError, match=f"line 2 of {manifest}"):
        read_manifest(manifest)


def test_write_manifest_refuses_name_that_breaks_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'two\\nlines' cannot stand in a manifest"):
        write_manifest(tmp_path / MANIFEST_FILE, {"two\nlines": "a" * 64})
    assert list(tmp_path.iterdir()) == []


def test_list_files_includes_links_and_skips_hidden_files(directory: Path) -> None:
    blob = directory.parent / "blob"
    blob.write_text("weights")
    (directory / "linked.safetensors").symlink_to(blob)
    (directory / ".gitattributes").write_text("")
    (directory / ".cache").mkdir()
    (directory / ".cache" / "download.lock").write_text("")
    assert list_files(directory) == [
        "config.json",
        "linked.safetensors",
        "model.safetensors",
        "original/notes 1.txt",
    ]


def test_list_files_refuses_broken_and_directory_links(directory: Path) -> None:
    (directory / "gone").symlink_to(directory.parent / "nowhere")
    with pytest.raises(CheckpointError, match="gone is a broken link"):
        list_files(directory)
    (directory / "gone").unlink()
    (directory / "more").symlink_to(directory.parent)
    with pytest.raises(CheckpointError, match="more is a link to a directory"):
        list_files(directory)
