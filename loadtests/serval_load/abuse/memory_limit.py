"""Holding a program to a memory limit as a container does, by a control group of the kernel."""

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
# Files of the limit and of the peak, in version 1 and version 2 of control groups.
_FILES = (("memory.limit_in_bytes", "memory.max_usage_in_bytes"), ("memory.max", "memory.peak"))


@dataclass(frozen=True)
class MemoryLimit:
    """A limit of `mib` mebibytes. Without a `group` nothing enforces it, and only the peak is compared."""

    mib: int
    group: Path | None

    def command(self, command: Sequence[str]) -> list[str]:
        """Return `command` so that it, and all that it starts, is held to the limit."""
        if self.group is None:
            return list(command)
        return ["sh", "-c", f'echo $$ > {self.group}/cgroup.procs && exec "$@"', "sh", *command]

    def describe(self) -> str:
        """Return how the limit is enforced."""
        if self.group is None:
            return f"{self.mib} MiB, not enforced: no control group can be made here"
        return f"{self.mib} MiB, enforced by the kernel"


@contextlib.contextmanager
def memory_limit(mib: int) -> Iterator[MemoryLimit]:
    """Make a control group with the limit, and remove it at the end, when its programs have ended."""
    group = _new_group(mib)
    try:
        yield MemoryLimit(mib, group)
    finally:
        if group is not None:
            _remove(group)


def _new_group(mib: int) -> Path | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "memory" not in controllers.split(","):
            continue
        base = _ROOT if number == "0" else _ROOT / "memory"
        group = base / path.lstrip("/") / f"serval-{secrets.token_hex(4)}"
        try:
            group.mkdir()
        except OSError:
            continue
        for limit, _ in _FILES:
            with contextlib.suppress(OSError):
                if (group / limit).exists():
                    (group / limit).write_text(str(mib << 20))
                    return group
        group.rmdir()
    return None


def _remove(group: Path) -> None:
    for _ in range(100):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.05)
        else:
            return
