"""Commands on Markdown pages: lines of shell blocks, and code spans that begin with a program's name.

Spans that begin with `--set` are values of the chart, which belong to a `helm upgrade`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = frozenset({
    "amtool", "apt-get", "bash", "buildah", "cat", "chmod", "chown", "cp", "createdb", "curl", "df",
    "dmesg", "docker", "dropdb", "git", "grep", "helm", "install", "journalctl", "jq", "kill", "kubectl",
    "make", "mkdir", "mv", "nvidia-smi", "openssl", "pg_dump", "pg_restore", "pip", "podman", "promtool",
    "psql", "python", "python3", "redis-cli", "rm", "rsync", "scp", "sed", "serval", "sqlite3", "ssh",
    "sudo", "systemctl", "tail", "tar", "umask", "uv", "wget",
})  # fmt: skip
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SHELLS = frozenset({"bash", "sh", "shell", "console"})
_SPAN = re.compile(r"(`+)([^`](?:.|\n(?!\n))*?)\1(?!`)")
_VARIABLE = re.compile(r"^(?:[A-Z_][A-Z0-9_]*=\S* +)+")


@dataclass(frozen=True)
class PageCommand:
    """A command, and the page and line that it is on."""

    page: Path
    line: int
    text: str

    @property
    def program(self) -> str:
        """Name of the program that it begins with, after variables."""
        return _VARIABLE.sub("", self.text).split()[0]


def commands_of(page: Path) -> Iterator[PageCommand]:
    """Yield the commands of a page. A code span of one word names a program and is no command."""
    text = page.read_text()
    prose = text
    for block in _BLOCK.finditer(text):
        prose = prose.replace(block[0], "\n" * block[0].count("\n"), 1)
        if block[1] in _SHELLS:
            yield from _block_commands(page, text.count("\n", 0, block.start()) + 2, block[2], block[1])
    for span in _SPAN.finditer(prose):
        command = " ".join(span[2].split())
        words = _VARIABLE.sub("", command + " ").split()
        if len(words) > 1 and (words[0] in PROGRAMS or words[0].startswith("--set")):
            yield PageCommand(page, prose.count("\n", 0, span.start()) + 1, command)


def _block_commands(page: Path, first_line: int, block: str, language: str) -> Iterator[PageCommand]:
    joined = re.sub(r"\\\n *", lambda match: " " + "\0" * match[0].count("\n"), block)
    line = first_line
    for written in joined.split("\n"):
        command = re.sub(r" +# .*$|^#.*$", "", written.replace("\0", "").strip())
        if language == "console":
            command = command.removeprefix("$ ") if command.startswith("$ ") else ""
        if command:
            yield PageCommand(page, line, " ".join(command.split()))
        line += 1 + written.count("\0")
