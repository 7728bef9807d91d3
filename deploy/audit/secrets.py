"""Search tracked files for credentials: `python deploy/audit/secrets.py`; exit code 1 if it finds one.

Prints the file, the line and the kind, never the text. A line is exempt if it says `not-a-secret` and why.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = "not-a-secret"
KINDS = {
    "private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "Serval API key": re.compile(r"\bsk-serval-[0-9a-f]{8}-[0-9a-f]{40}\b"),
    "OpenAI key": re.compile(r"\bsk-(?:proj-)?[A-Za-z0-9_]{40,}\b"),
    "Hugging Face token": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "GitHub token": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{50,})\b"),
    "AWS key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "Google key": re.compile(r"\bAIza[A-Za-z0-9_-]{35}\b"),
    "Slack token": re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}\b"),
    # Excludes placeholders in help texts.
    "password in an address": re.compile(
        r"\b[a-z][a-z0-9+]*://[^\s/:@\"'<>{}$]+:(?!(?i:password)@|\*+@)[^\s/@\"'<>{}$]+@"
    ),
}


def findings(text: str) -> Iterator[tuple[int, str]]:
    """Yield line number and kind of each credential in `text`."""
    for number, line in enumerate(text.splitlines(), start=1):
        if ALLOWED not in line:
            yield from ((number, kind) for kind, pattern in KINDS.items() if pattern.search(line))


def tracked_files() -> list[Path]:
    """Tracked files, and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def main() -> int:
    """Print the findings; exit with 1 if there are any."""
    found = 0
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" in content[:4096]:
            continue
        for number, kind in findings(content.decode("utf-8", "replace")):
            print(f"{path.relative_to(ROOT)}:{number}: {kind}", file=sys.stderr)
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
