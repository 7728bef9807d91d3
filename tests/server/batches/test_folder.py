"""The folder of contents: whole files or none, and what killed processes leave."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from serval.batches.folder import ContentFolder, open_folder
from serval.errors import SettingsError


def test_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = open_folder(tmp_path / "files")
    with folder.writing("file-1") as file:
        file.write(b"0123456789")
        assert not folder.path_of("file-1").exists()
    assert folder.read("file-1", [(2, 3), (8, 9)]) == [b"234", b"89"]
    with suppress(KeyError), folder.writing("file-2") as file:
        file.write(b"x")
        raise KeyError
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["file-1"]
    assert folder.path_of("file-1").stat().st_mode & 0o077 == 0
    folder.remove("file-1")
    folder.remove("file-1")


def test_old_files_of_killed_processes_are_removed_and_others_are_not(tmp_path: Path) -> None:
    old = time.time() - 1000
    for name in (".part-1", "file-lost", "file-known", "notes.txt", "file-new"):
        (tmp_path / name).touch()
        if name != "file-new":
            os.utime(tmp_path / name, (old, old))
    folder = ContentFolder(tmp_path)
    assert folder.remove_strays(lambda ids: {"file-known"} & set(ids), older_than_s=500) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"file-known", "notes.txt", "file-new"}


def test_folder_that_cannot_be_used_is_a_settings_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="SERVAL_BATCH_FOLDER"):
        open_folder(tmp_path / "file")
