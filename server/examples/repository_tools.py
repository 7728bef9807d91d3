"""Tools over a folder: `search`, `read` and `grep`. None leaves the folder, also not by links, or writes."""

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from budgeted_loop import Tool, declared

if TYPE_CHECKING:
    from repository_index import Index

HITS = 6
LINES_OF_A_HIT = 8
MOST_LINES = 150
MOST_MATCHES = 40
GREP_SECONDS = 10


def tools_of(root: Path, index: "Index") -> list[Tool]:
    """Return the tools for the folder `root` and its index."""
    text, number = {"type": "string"}, {"type": "integer"}
    return [
        Tool(
            lambda query: search(index, query),
            declared("search", "Find the parts of the repository that fit words or names best.", query=text),
        ),
        Tool(
            lambda path, begin, end: read(root, path, begin, end),
            declared("read", "Read lines of a file, counted from 1.", path=text, begin=number, end=number),
        ),
        Tool(
            lambda pattern: grep(root, pattern),
            declared("grep", "Find lines by an extended regular expression.", pattern=text),
        ),
    ]


def search(index: "Index", query: str) -> str:
    """Return the best chunks: where they are, what they define, how they begin."""
    found = []
    for chunk in index.search(query, HITS):
        names = f" ({', '.join(chunk.names[:6])})" if chunk.names else ""
        lines = [line for line in chunk.text.splitlines() if line.strip()][:LINES_OF_A_HIT]
        found.append("\n".join([f"{chunk.path}:{chunk.begin}-{chunk.end}{names}", *lines]))
    return "\n\n".join(found) or "nothing found"


def read(root: Path, path: str, begin: int, end: int) -> str:
    """Return numbered lines. Raises `OSError`, or `ValueError` for a path outside of `root`."""
    lines = inside(root, path).read_text(encoding="utf-8", errors="replace").splitlines()
    begin = max(begin, 1)
    end = min(end, begin + MOST_LINES - 1, len(lines))
    if begin > end:
        raise ValueError(f"{path} has {len(lines)} lines")
    return "\n".join(f"{number}: {lines[number - 1]}" for number in range(begin, end + 1))


def grep(root: Path, pattern: str) -> str:
    """Return matching lines with their files. grep itself ends after some seconds, whatever the pattern.

    Raises `ValueError` for a pattern that is none or takes too long.
    """
    command = ["grep", "-rnIE", "--exclude-dir=.?*", "--exclude-dir=__pycache__", "-m", str(MOST_MATCHES)]
    try:
        done = subprocess.run(
            [*command, "-e", pattern, "."],
            cwd=root, capture_output=True, timeout=GREP_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ValueError(f"the pattern takes more than {GREP_SECONDS} s") from None
    if done.returncode > 1 and not done.stdout:
        raise ValueError(done.stderr.decode(errors="replace").strip()[:200])
    lines = sorted(line[2:] for line in done.stdout.decode(errors="replace").splitlines())
    return "\n".join(line[:300] for line in lines[:MOST_MATCHES]) or "nothing found"


def inside(root: Path, path: str) -> Path:
    """Return the path below `root`. Raises `ValueError` for one outside, through links too."""
    resolved = (root / path).resolve()
    if not resolved.is_relative_to(root):
        raise ValueError(f"{path} is outside of the repository")
    return resolved
