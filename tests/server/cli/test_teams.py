"""`serval teams`, and the options of teams and budgets of `serval keys`."""

import json
from pathlib import Path
from typing import Any

import pytest

from serval.cli import main


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVAL_KEY_DATABASE", str(tmp_path / "keys.db"))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Any]:
    assert main([*arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_teams_create_update_list_and_delete(capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = run(
        capsys, "teams", "create", "--name", "lab", "--budget", "cost/month=250", "--soft-budget",
        "cost/month=200.5", "--concurrent-requests", "3",
    )  # fmt: skip
    assert made["budgets"] == [{"unit": "cost", "period": "month", "hard": "250.00", "soft": "200.50"}]
    assert made["limits"]["concurrent_requests"] == 3
    assert made["limits"]["tokens_per_day"] == "unlimited"
    (changed,) = run(
        capsys, "teams", "update", made["id"], "--budget", "cost/month=none", "--budget", "tokens/day=9"
    )
    assert [(each["unit"], each["hard"], each["soft"]) for each in changed["budgets"]] == [
        ("tokens", 9, None),
        ("cost", None, "200.50"),
    ]
    assert main(["teams", "list"]) == 0
    shown = capsys.readouterr().out
    assert "concurrent_requests=3 tokens/day=9 cost/month=unlimited (soft 200.50)" in shown
    assert run(capsys, "teams", "delete", made["id"]) == [changed]
    assert main(["teams", "list"]) == 0
    assert "serval teams create" in capsys.readouterr().out


def test_keys_are_given_teams_and_budgets(capsys: pytest.CaptureFixture[str]) -> None:
    (team,) = run(capsys, "teams", "create", "--name", "lab")
    (key,) = run(capsys, "keys", "create", "--name", "a", "--team", team["id"], "--budget", "tokens/week=5")
    assert key["team"] == team["id"]
    assert key["budgets"] == [{"unit": "tokens", "period": "week", "hard": 5, "soft": None}]
    assert main(["teams", "delete", team["id"]]) == 1
    assert key["id"] in capsys.readouterr().err
    (changed,) = run(capsys, "keys", "update", key["id"], "--team", "none", "--soft-budget", "tokens/week=4")
    assert changed["team"] is None
    assert changed["budgets"] == [{"unit": "tokens", "period": "week", "hard": 5, "soft": 4}]


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        ("tokens/day=1.5", "not a number of tokens"),
        ("cost/day=0", "not a cost"),
        ("tokens/year=5", "is no budget such as"),
        ("tokens/day", "is no budget such as"),
    ],
)
def test_budget_option_that_is_wrong_is_refused(
    capsys: pytest.CaptureFixture[str], budget: str, told: str
) -> None:
    with pytest.raises(SystemExit):
        main(["teams", "create", "--name", "a", "--budget", budget])
    assert told in capsys.readouterr().err


def test_soft_budget_above_the_hard_one_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    (made,) = run(capsys, "teams", "create", "--name", "a", "--budget", "tokens/day=5")
    assert main(["teams", "update", made["id"], "--soft-budget", "tokens/day=6"]) == 1
    assert "above its hard limit" in capsys.readouterr().err
    assert run(capsys, "teams", "list") == [made]
