"""Tools of the repository agent stay inside the folder and within bounds."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repository_tools import MOST_LINES, MOST_MATCHES, grep, inside, read, search, tools_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "a.py").write_text("".join(f"line_{number} = {number}\n" for number in range(1, 301)))
    (tmp_path / "secret.txt").write_text("line_secret\n")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / ".hidden").mkdir()
    (folder / ".hidden/b.py").write_text("line_hidden = 1\n")
    return folder.resolve()


@pytest.mark.parametrize("path", ["../secret.txt", "/etc/passwd", "link.txt", "a/../../secret.txt"])
def test_paths_outside_of_the_repository_are_refused(root: Path, path: str) -> None:
    with pytest.raises(ValueError, match="is outside of the repository"):
        read(root, path, 1, 2)


def test_path_inside_may_be_absolute(root: Path) -> None:
    assert inside(root, str(root / "a.py")) == root / "a.py"


def test_read_numbers_lines_and_bounds_them(root: Path) -> None:
    assert read(root, "a.py", 0, 2) == "1: line_1 = 1\n2: line_2 = 2"
    assert read(root, "a.py", 300, 999) == "300: line_300 = 300"
    assert read(root, "a.py", 1, 999).count("\n") == MOST_LINES - 1
    with pytest.raises(ValueError, match="has 300 lines"):
        read(root, "a.py", 301, 400)


def test_grep_finds_lines_of_visible_files_that_are_no_links(root: Path) -> None:
    assert grep(root, r"line_(7|300)\b") == "a.py:300:line_300 = 300\na.py:7:line_7 = 7"
    assert grep(root, "secret|hidden") == "nothing found"
    assert len(grep(root, "line").splitlines()) == MOST_MATCHES


def test_grep_takes_no_options_and_explains_bad_patterns(root: Path) -> None:
    assert grep(root, "--include=../secret.txt") == "nothing found"
    with pytest.raises(ValueError, match="grep"):
        grep(root, "(")


def test_search_shows_where_and_how_parts_begin() -> None:
    chunk = SimpleNamespace(
        path="a.py", begin=3, end=90, names=("A", "b"), text="\n".join("class A:\n\n" * 50)
    )
    index: Any = SimpleNamespace(search=lambda query, count: [chunk] if query == "A" else [])
    first, *lines = search(index, "A").splitlines()
    assert first == "a.py:3-90 (A, b)"
    assert len(lines) == 8
    assert search(index, "B") == "nothing found"


def test_declared_tools_run_with_their_arguments(root: Path) -> None:
    index: Any = SimpleNamespace(search=lambda query, count: [])
    tools = {tool.name: tool for tool in tools_of(root, index)}
    assert list(tools) == ["search", "read", "grep"]
    assert tools["read"].run(path="a.py", begin=1, end=1) == "1: line_1 = 1"
    assert tools["search"].run(query="x") == tools["grep"].run(pattern="xyz") == "nothing found"
