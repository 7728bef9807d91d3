"""Lines to paste into a shell."""

import subprocess

from serval.agents.setup import HOME, KEY, Setup, shell_lines


def test_shell_expands_only_key_and_home() -> None:
    setup = Setup(
        'printf "%s\\n" "$A" "$B" "$C"',
        variables={"A": KEY, "B": f"{HOME}/a b", "C": "$(id) `id` $HOME 'x'"},
    )
    done = subprocess.run(
        ["/bin/sh", "-c", "\n".join(shell_lines(setup))],
        env={"SERVAL_API_KEY": "sk-1 2", "HOME": "/home/of me"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["sk-1 2", "/home/of me/a b", "$(id) `id` $HOME 'x'"]


def test_command_that_runs_once_comes_before_the_start() -> None:
    assert shell_lines(Setup("agent", variables={"A": "1"}, once="agent login")) == [
        "export A=1",
        "agent login",
        "agent",
    ]
