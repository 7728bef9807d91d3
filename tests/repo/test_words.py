"""Wording of docstrings, comments and test names: each begins with a noun or a verb."""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from serval_testkit.repository import ROOT, tracked_files

# Openings that make a reader parse a clause before knowing the subject.
OPENING = re.compile(r"(What|Whether|Whoever|Of)\b")
# Tests are named `test_<unit>_<behaviour>`: question words and pronouns name no unit, nor does `x_s_y`.
TEST_NAME = re.compile(r"test_(what|who|whoever|whose|whom|whether|which|of|it|its|they|those)_|_s_")
# Comments of these files are lines that begin with `#`.
HASH_COMMENTS = ("*.sh", "*.yaml", "*.yml", "*.toml", "*Dockerfile", "*Makefile", ".ci/run")


def folder_of(path: Path) -> str:
    """Top folder of a file, or the folder below `tests/`."""
    folders = path.relative_to(ROOT).parts[:-1]
    return "/".join(folders[: 2 if folders[:1] == ("tests",) else 1]) or "."


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def first_lines(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """First line of each comment; a line right below another continues it."""
    expected = 0
    for number, text in lines:
        if number != expected:
            yield number, text
        expected = number + 1


def python_comments(text: str) -> Iterator[tuple[int, str]]:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = [(token.start, token.string.lstrip("# ")) for token in tokens if token.type == tokenize.COMMENT]
    lines = text.splitlines()
    alone = [(row, comment) for (row, column), comment in found if not lines[row - 1][:column].strip()]
    yield from first_lines(alone)
    yield from ((row, comment) for (row, column), comment in found if lines[row - 1][:column].strip())


def hash_comments(text: str) -> Iterator[tuple[int, str]]:
    lines = enumerate(text.splitlines(), 1)
    stripped = ((row, line.strip()) for row, line in lines)
    return first_lines((row, line.lstrip("# ")) for row, line in stripped if re.match("#(?!!)", line))


def names_of_tests(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield node.lineno, node.name


def complaints(where: str, text: str) -> list[str]:
    """Docstrings, comments and test names of the file `where` that break the rules."""
    names: list[tuple[int, str]] = []
    if where.endswith(".py"):
        tree = ast.parse(text)
        prose = [*docstrings(tree), *python_comments(text)]
        names = [found for found in names_of_tests(tree) if TEST_NAME.search(found[1])]
    else:
        prose = list(hash_comments(text))
    found = sorted([(row, sentence) for row, sentence in prose if OPENING.match(sentence)] + names)
    return [f"{where}:{row}: {sentence.splitlines()[0]}" for row, sentence in found]


FILES = tracked_files("*.py", *HASH_COMMENTS)


@pytest.mark.parametrize("folder", sorted({folder_of(path) for path in FILES}))
def test_folder_words_begin_with_a_noun_or_a_verb(folder: str) -> None:
    found = []
    for path in FILES:
        if folder_of(path) == folder:
            found += complaints(path.relative_to(ROOT).as_posix(), path.read_text())
    assert not found, "\n".join([f"{len(found)} in {folder}:", *found])


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.py", '"""What it does."""\n', ["a.py:1: What it does."]),
        ("a.py", 'def f():\n    """Whether it is so."""\n', ["a.py:2: Whether it is so."]),
        (
            "a.py",
            "# Of the head\n# What goes on\nx = 1  # Whoever asks\n",
            ["a.py:1: Of the head", "a.py:3: Whoever asks"],
        ),
        ("a.py", "def test_who_waits(): ...\n", ["a.py:1: test_who_waits"]),
        ("a.py", "def test_answer_s_head(): ...\n", ["a.py:1: test_answer_s_head"]),
        ("a.py", '"""Offsets of events."""\n# Whatever comes\ndef test_whole(): ...\n', []),
        ("a.sh", "#!/bin/sh\n# What is here\necho  # Of\n", ["a.sh:2: What is here"]),
    ],
)
def test_complaints_are_found(name: str, text: str, found: list[str]) -> None:
    assert complaints(name, text) == found
