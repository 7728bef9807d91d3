"""Files of an agent in the user's home folder."""

from pathlib import Path

import pytest

from serval.agents.setup import ConfigFile
from serval.agents.writing import ConfigFileError, write_files

FILES = (ConfigFile(".agent/a.json", "{}\n"), ConfigFile(".agent/b.json", "[]\n"))


def never(path: Path) -> bool:
    raise AssertionError(f"asked about {path}")


def test_files_are_written_with_their_folders(tmp_path: Path) -> None:
    paths = write_files(FILES, tmp_path, replace=never)
    assert [path.read_text() for path in paths] == ["{}\n", "[]\n"]
    # The same files again are no reason to ask.
    assert write_files(FILES, tmp_path, replace=never) == paths
    assert sorted(path.name for path in (tmp_path / ".agent").iterdir()) == ["a.json", "b.json"]


def test_existing_file_is_replaced_only_if_the_user_agrees(tmp_path: Path) -> None:
    (tmp_path / ".agent").mkdir()
    mine = tmp_path / ".agent/b.json"
    mine.write_text("mine")
    with pytest.raises(ConfigFileError, match=r"b\.json exists and stays as it is"):
        write_files(FILES, tmp_path, replace=lambda _: False)
    assert mine.read_text() == "mine"
    mine.write_bytes(b"\xff")
    with pytest.raises(ConfigFileError, match="stays as it is"):
        write_files(FILES, tmp_path, replace=lambda _: False)
    assert not (tmp_path / ".agent/a.json").exists()
    write_files(FILES, tmp_path, replace=lambda path: path == mine)
    assert mine.read_text() == "[]\n"


def test_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".agent").write_text("a file, not a folder")
    with pytest.raises(ConfigFileError, match=r"cannot write .*a\.json"):
        write_files(FILES, tmp_path, replace=never)
