"""Coding agents themselves, configured by `serval agent`, without a network, in a home of their own."""

import asyncio
import os
import platform
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

from serval.agents.setup import Target, shell_lines
from serval.agents.table import AGENTS
from serval.agents.writing import write_files
from serval_testkit.gateway import API_KEY

ROOT = Path(__file__).resolve().parents[3]
# A busy machine takes ten times as long as a quiet one.
_TIMEOUT_S = 240
_MODULES = "node_modules"
# Command -> its program in the folder of the agents.
_PROGRAMS = {
    "codex": f"{_MODULES}/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex",
    "claude": f"{_MODULES}/@anthropic-ai/claude-code-linux-x64/claude",
    "opencode": f"{_MODULES}/opencode-linux-x64/bin/opencode",
    "pi": f"{_MODULES}/.bin/pi",
}
# Agent -> options with which it works alone, without asking its user, and takes the task as next argument.
_ALONE = {
    "codex": ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"],
    "claude-code": ["--dangerously-skip-permissions", "-p"],
    "opencode": ["run", "--auto"],
    "pi": ["--approve", "-p"],
}
# Nothing answers there: an agent that wants the network fails at once.
_NO_NETWORK = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "PI_OFFLINE": "1",
    "IS_SANDBOX": "1",  # Claude Code works alone as root only where it is told so
}


@dataclass(frozen=True)
class Ended:
    """End of an agent's run."""

    code: int
    output: str
    errors: str


@lru_cache
def agents_folder() -> Path:
    """Return the folder of the installed agents; skip if they cannot be installed."""
    if platform.machine() != "x86_64":
        pytest.skip("the agents are locked for x86-64")
    made = subprocess.run(
        [ROOT / "deploy/setup/setup.sh", "--agents"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"deploy/setup/setup.sh --agents needs the indexes of PyPI and npm: {made.stderr[-300:]}")
    return Path(made.stdout.strip())


@dataclass(frozen=True)
class Agent:
    """An agent with a home and a workspace, configured for the server `target`."""

    name: str
    home: Path
    workspace: Path
    target: Target
    key: str

    async def works(self, task: str, *options: str, variables: Mapping[str, str] | None = None) -> Ended:
        """Give the agent a task and wait until it has ended."""
        *exports, command = shell_lines(AGENTS[self.name](self.target))
        words = [*_ALONE[self.name], *options, task]
        script = "\n".join([*exports, f"exec {command} {shlex.join(words)}"])
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", script,
            cwd=self.workspace, env=self._environment() | dict(variables or {}),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                output, errors = await process.communicate()
        except BaseException:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        return Ended(process.returncode, output.decode(), errors.decode())

    def _environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "SERVAL_API_KEY": self.key,
            "TERM": "dumb",
            **_NO_NETWORK,
        }


def configured_agent(
    name: str, folder: Path, target: Target, files: Mapping[str, str], *, key: str = API_KEY
) -> Agent:
    """Write what `serval agent` writes into a home below `folder`, and `files` into a workspace beside it."""
    home, workspace = folder / "home", folder / "work"
    workspace.mkdir(parents=True)
    for path, text in files.items():
        (workspace / path).write_text(text)
    write_files(AGENTS[name](target).files, home, replace=lambda _: False)
    programs = home / "bin"
    programs.mkdir(parents=True)
    for command, path in _PROGRAMS.items():
        (programs / command).symlink_to(agents_folder() / path)
    (programs / "node").symlink_to(agents_folder() / "node")
    return Agent(name, home, workspace, target, key)
