"""Print the entries of some packages in requirements.lock with their hashes; fail if one is missing.

python3 docker/subset_of_lock.py requirements.lock uv
python3 docker/subset_of_lock.py requirements.lock --names gateway.txt   (lines `name==version`)
"""

import re
import sys
from pathlib import Path


def entries(lock: str) -> dict[str, str]:
    """Text of each package in a lock, by name."""
    found = {}
    for entry in re.split(r"\n(?=[a-zA-Z0-9])", lock):
        name = re.match(r"([a-zA-Z0-9._-]+)(\[[^]]*\])?==", entry)
        if name:
            found[normalized(name[1])] = entry.rstrip()
    return found


def subset(lock: str, wanted: list[str]) -> str:
    """Entries of `wanted`, names or `name==version`. Raises `SystemExit` for what the lock does not have."""
    locked = entries(lock)
    chosen = []
    for want in wanted:
        entry = locked.get(normalized(want.split("==")[0].split("[")[0]))
        if entry is None:
            sys.exit(f"{want} is not in the lock; run `make lock`")
        if "==" in want and not entry.split(" ", 1)[0].lower().endswith("==" + want.split("==")[1].lower()):
            sys.exit(f"{want} is not the version in the lock ({entry.split(' ', 1)[0]}); run `make lock`")
        chosen.append(entry)
    return "\n".join(chosen) + "\n"


def normalized(name: str) -> str:
    """Normalised name of a package, as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main(arguments: list[str]) -> None:
    """Print the entries for the arguments."""
    lock, *wanted = arguments
    if wanted[0] == "--names":
        lines = Path(wanted[1]).read_text(encoding="utf-8").splitlines()
        wanted = [line.split(";")[0].strip() for line in lines if line.strip() and not line.startswith("#")]
    print(subset(Path(lock).read_text(encoding="utf-8"), wanted), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
