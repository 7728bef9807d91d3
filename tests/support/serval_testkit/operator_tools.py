"""The programs of operators (promtool, helm, docker-compose, ...) that tests of the deployment run."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = "deploy/setup/operator-tools.sh"


class ToolsMissingError(RuntimeError):
    """The programs could not be fetched; the message gives the reason."""


@dataclass(frozen=True)
class OperatorTools:
    """Locations of the programs."""

    folder: Path

    def run(
        self, *command: str | Path, check: bool = True, **options: object
    ) -> subprocess.CompletedProcess[str]:
        """Run a program; on a failure the assertion shows its output."""
        argv = [self.folder / "bin" / command[0], *command[1:]]
        return run_and_show(argv, check=check, **options)


def run_and_show(
    argv: Sequence[str | Path], *, check: bool = True, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository's root; on a failure the assertion shows its output."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(part) for part in argv],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=600, **options,
    )  # fmt: skip
    assert not check or done.returncode == 0, (
        f"{argv} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    )
    result: subprocess.CompletedProcess[str] = done
    return result


def fetch_operator_tools() -> OperatorTools:
    """Fetch the programs once into the cache folder. Raises `ToolsMissingError`."""
    try:
        done = subprocess.run([SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    except subprocess.TimeoutExpired as error:
        raise ToolsMissingError("the downloads took longer than 200 s") from error
    if done.returncode != 0:
        raise ToolsMissingError(done.stderr.strip()[-500:])
    return OperatorTools(Path(done.stdout.strip()))
