"""Tools over a log file of any size: what it holds in short, `grep` and `read`. Memory does not grow with it.

The file is streamed line by line. A line's template is the line with its numbers, addresses and paths masked.
The most frequent ones are counted in bounded memory (Misra and Gries, "Finding repeated elements", 1982):
each count is too small by at most lines / `MOST_TEMPLATES`.
"""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from budgeted_loop import Tool, declared

MOST_LINE_BYTES = 16 << 10
MOST_TEMPLATES = 2_000
MOST_MINUTES = 10_000
SHOWN_TEMPLATES = 40
SHOWN_MINUTES = 30
MOST_LINES = 100
GREP_SECONDS = 60

MASKS = (
    (re.compile(rb"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), b"<uuid>"),
    (re.compile(rb"\b(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b"), b"<hex>"),
    (re.compile(rb"(?<![\w/])/[\w./-]+"), b"<path>"),
    (re.compile(rb"\d+(?:[.:,-]\d+)*"), b"<n>"),
)
MINUTE = re.compile(rb"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
LEVEL = re.compile(rb"\b(?:FATAL|CRITICAL|ERROR|WARN(?:ING)?|INFO|DEBUG|TRACE)\b")


@dataclass
class FrequentCounts:
    """Counts of the most frequent keys, in memory for `capacity` of them."""

    capacity: int
    counts: Counter[bytes] = field(default_factory=Counter)

    def add(self, key: bytes) -> None:
        """Count a key. Once there is no room for a new one, every count falls by one."""
        if key in self.counts or len(self.counts) < self.capacity:
            self.counts[key] += 1
            return
        self.counts = Counter({one: count - 1 for one, count in self.counts.items() if count > 1})


@dataclass
class Summary:
    """Result of one pass over a file; minutes beyond `MOST_MINUTES` different ones are not counted."""

    lines: int = 0
    size_bytes: int = 0
    levels: Counter[bytes] = field(default_factory=Counter)
    minutes: Counter[bytes] = field(default_factory=Counter)
    errors: Counter[bytes] = field(default_factory=Counter)
    templates: FrequentCounts = field(default_factory=lambda: FrequentCounts(MOST_TEMPLATES))


def summary_of(path: Path) -> Summary:
    """Read the file once. Raises `OSError`."""
    summary = Summary()
    for line in lines_of(path):
        summary.lines += 1
        summary.size_bytes += len(line)
        level = LEVEL.search(line)
        minute = MINUTE.search(line, 0, 64)
        if level:
            summary.levels[level.group()] += 1
        if minute:
            _count(summary.minutes, minute.group())
            if level and level.group() in (b"ERROR", b"FATAL", b"CRITICAL"):
                _count(summary.errors, minute.group())
        summary.templates.add(template_of(line))
    return summary


def template_of(line: bytes) -> bytes:
    """Return the line without what differs from one to the next, at most 200 bytes of it."""
    # Times are the beginning of most lines and would be masked piece by piece.
    line = line.strip()[:400]
    for mask, name in MASKS:
        line = mask.sub(name, line)
    return line[:200]


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines; one that is longer than `MOST_LINE_BYTES` is cut."""
    with path.open("rb") as file:
        while line := file.readline(MOST_LINE_BYTES):
            yield line
            while not line.endswith(b"\n") and len(line) == MOST_LINE_BYTES:
                line = file.readline(MOST_LINE_BYTES)


def text_of(summary: Summary) -> str:
    """Describe the file for the model: the same text for every question, so that it stays in the cache."""
    levels = ", ".join(f"{name.decode()} {count:,}" for name, count in summary.levels.most_common())
    worst = sorted(summary.errors.most_common(SHOWN_MINUTES))
    shown = [
        f"{summary.lines:,} lines, {summary.size_bytes:,} bytes; levels: {levels or 'none'}",
        "Minutes with most errors (errors of all lines):",
        *(f"{minute.decode()} {count:,} of {summary.minutes[minute]:,}" for minute, count in worst),
        "Most frequent lines, with numbers, addresses and paths masked:",
    ]
    for template, count in summary.templates.counts.most_common(SHOWN_TEMPLATES):
        shown.append(f"{count:,} x {template.decode(errors='replace')}")
    return "\n".join(shown)


def tools_of(path: Path) -> list[Tool]:
    """Return the tools for the file."""
    text, number = {"type": "string"}, {"type": "integer"}
    return [
        Tool(
            lambda pattern, skip: grep(path, pattern, skip),
            declared(
                "grep",
                f"Find {MOST_LINES} lines by an extended regular expression, after the first `skip`.",
                pattern=text,
                skip=number,
            ),
        ),
        Tool(
            lambda begin, count: read(path, begin, count),
            declared("read", "Read lines, counted from 1.", begin=number, count=number),
        ),
    ]


def read(path: Path, begin: int, count: int) -> str:
    """Return numbered lines."""
    begin, count = max(begin, 1), min(count, MOST_LINES)
    found = islice(lines_of(path), begin - 1, begin - 1 + count)
    return "\n".join(_shown(number, line) for number, line in enumerate(found, begin)) or "no such line"


def grep(path: Path, pattern: str, skip: int) -> str:
    """Return matching lines with their numbers. grep ends after a minute, whatever the pattern.

    Raises `ValueError` for a pattern that is none or takes too long.
    """
    skip = max(skip, 0)
    command = ["grep", "-anE", "-m", str(skip + MOST_LINES), "-e", pattern, "--", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=GREP_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"the pattern takes more than {GREP_SECONDS} s") from None
    if done.returncode > 1:
        raise ValueError(done.stderr.decode(errors="replace").strip()[:200])
    found = [line.partition(b":") for line in done.stdout.splitlines()[skip:]]
    return "\n".join(_shown(int(number), line) for number, _, line in found) or "nothing found"


def _shown(number: int, line: bytes) -> str:
    return f"{number}: {line.rstrip()[:500].decode(errors='replace')}"


def _count(counts: Counter[bytes], key: bytes) -> None:
    if key in counts or len(counts) < MOST_MINUTES:
        counts[key] += 1
