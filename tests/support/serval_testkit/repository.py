"""Files of this repository as git lists them."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def tracked_files(*patterns: str) -> list[Path]:
    """Return the matching files that are tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]
