"""A step as data: a command, what it shows, what it needs, and which steps must be green before it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Placeholders in commands, filled in by `words`.
_PLACEHOLDERS = ("work", "rows", "model")


@dataclass(frozen=True)
class Needs:
    """Needs of a step. Compilers are none of them: `serval doctor` looks for those, in a step of its own."""

    gpus: int = 1
    gpu_memory_gib: float = 0.0  # of each GPU
    capability: float = 0.0  # least compute capability
    host_memory_gib: float = 0.0
    disk_gib: float = 0.0
    packages: tuple[str, ...] = ()  # importable names
    programs: tuple[str, ...] = ()
    model: bool = False  # MODEL=... was given


@dataclass(frozen=True)
class Step:
    """One program, run by this Python from the repository's root.

    - `command`: its arguments after the interpreter; `{work}` is a folder for what steps hand on, `{rows}`
      the file to which a measuring step appends its rows, `{model}` the checkpoint of the user
    - `expected_s`: how long it takes; it is not started with less time left
    - `limit_s`: when it is stopped
    - `after`: steps that must be green before it
    - `measures`: it prints speeds, so each step in `after` is a check of the same path
    - `writes`: folder below `{work}` that it creates, removed before a new attempt
    - `programs_first`: a program that runs the interpreter, with its options
    - `rehearsal`: the command on a CPU, None where a CPU cannot show anything
    """

    name: str
    shows: str
    command: tuple[str, ...] = ()
    expected_s: float = 0.0
    limit_s: float = 0.0
    needs: Needs = field(default_factory=Needs)
    after: tuple[str, ...] = ()
    measures: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    writes: str = ""
    programs_first: tuple[str, ...] = ()
    rehearsal: tuple[str, ...] | None = None
    rehearsal_environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """Part to which the step belongs: the words before the colon."""
        return self.name.partition(":")[0]

    @property
    def file_name(self) -> str:
        """Name for a file about the step."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.name)


def words(command: tuple[str, ...], *, work: str, rows: str, model: str) -> list[str]:
    """Return the command with its placeholders filled in."""
    values = dict(zip(_PLACEHOLDERS, (work, rows, model), strict=True))
    filled = []
    for word in command:
        for name, value in values.items():
            word = word.replace(f"{{{name}}}", value)  # noqa: PLW2901
        filled.append(word)
    return filled
