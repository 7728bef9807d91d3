"""A server as agents see it, and the configuration of one agent for it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

KEY_VARIABLE: Final = "SERVAL_API_KEY"
# As a shell expands them in double quotes.
KEY: Final = f"${KEY_VARIABLE}"
HOME: Final = "$HOME"


@dataclass(frozen=True)
class Target:
    """A server and its model. `base_url` ends in `/v1`; both limits count tokens.

    `context_window` is that of prompt and answer together.
    """

    base_url: str
    model: str
    context_window: int
    output_limit: int

    @property
    def root_url(self) -> str:
        """The server's address without `/v1`, to which Anthropic's clients add it."""
        return self.base_url.removesuffix("/v1")


@dataclass(frozen=True)
class ConfigFile:
    """A file of the agent's configuration; `path` is relative to the user's home folder."""

    path: str
    text: str


@dataclass(frozen=True)
class Setup:
    """Configuration of an agent: files, environment variables, and the command that starts it with both.

    Values of `variables` may refer to `KEY` and `HOME`; nothing else in them is expanded.
    """

    command: str
    files: tuple[ConfigFile, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    # A command to run once, by which the agent writes its own configuration.
    once: str = ""
    note: str = ""


def shell_lines(setup: Setup) -> list[str]:
    """Return the lines to paste into a shell: variables, the command to run once, the agent's start."""
    lines = [f"export {name}={_quoted(value)}" for name, value in setup.variables.items()]
    return [*lines, *filter(None, [setup.once]), setup.command]


def _quoted(value: str) -> str:
    """Quote a value for a shell that may expand only the references that it begins with."""
    for reference in (KEY, HOME):
        if value.startswith(reference):
            rest = value.removeprefix(reference)
            return f'"{reference}"{shlex.quote(rest) if rest else ""}'
    return shlex.quote(value)
