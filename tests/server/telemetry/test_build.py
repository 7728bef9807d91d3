"""The commit of a checkout, of a worktree, and of a folder that is neither."""

import subprocess
from pathlib import Path

from serval.telemetry.build import commit_of


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.invalid", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_commit_of_a_checkout_and_its_worktree_and_of_no_checkout(tmp_path: Path) -> None:
    main, other = tmp_path / "main", tmp_path / "other"
    main.mkdir()
    git(main, "init", "-q")
    git(main, "commit", "-q", "--allow-empty", "-m", "first")
    git(main, "worktree", "add", "-q", str(other), "-b", "other")
    head = git(main, "rev-parse", "HEAD")
    assert commit_of(main) == commit_of(other) == head
    git(main, "checkout", "-q", "--detach")
    assert commit_of(main) == head
    assert commit_of(tmp_path) == ""
