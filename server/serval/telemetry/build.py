"""The running build: its version, and the commit if that is known."""

import importlib.metadata
import json
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import serval

_DISTRIBUTION = "serval-llm"
_CHECKOUT = Path(serval.__file__).resolve().parents[2]


@dataclass(frozen=True)
class Build:
    """Version of Serval and Python, and the commit as 12 hexadecimal digits; "" if it is not known."""

    version: str
    commit: str
    python: str


@cache
def build() -> Build:
    """Return the build of this process."""
    commit = _installed_commit() or commit_of(_CHECKOUT)
    return Build(serval.__version__, commit[:12], platform.python_version())


def _installed_commit() -> str:
    """Return the commit that pip installed from a repository, which it notes (PEP 610)."""
    try:
        noted = importlib.metadata.distribution(_DISTRIBUTION).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return ""
    found = json.loads(noted or "{}").get("vcs_info", {}).get("commit_id", "")
    return str(found)


def commit_of(checkout: Path) -> str:
    """Return the commit that is checked out in a folder; "" if it is none, or git has packed the name."""
    git = checkout / ".git"
    try:
        if git.is_file():
            # A worktree: its own HEAD, and branches in the repository's folder.
            git = checkout / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        common = git / "commondir"
        shared = git / common.read_text().strip() if common.exists() else git
        return (shared / head.removeprefix("ref: ")).read_text().strip()
    except OSError:
        return ""
