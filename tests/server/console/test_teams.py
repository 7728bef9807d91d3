"""The pages of teams, and budgets of teams and keys."""

import asyncio
import re
import time
from pathlib import Path

from serval.caller.budgets import Used
from serval.settings import Settings
from serval.store.daily_tokens import DailyTokens
from serval.store.factory import open_store
from serval_testkit.console import Visitor, new_key, running_console
from serval_testkit.gateway import MODEL, RunningGateway

NAME = "<i>research</i>"
SHOWN = "&lt;i&gt;research&lt;/i&gt;"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


async def made_team(visitor: Visitor, **fields: str) -> str:
    """Make a team; return its id."""
    answer = await visitor.send("/console/teams", {"name": NAME, **fields})
    assert (answer.status, answer.headers["location"]) == (303, "/console/teams")
    return (await visitor.get("/console/teams")).text.split("/console/teams/")[1].split('"')[0]


async def test_team_is_made_changed_and_deleted(visitor: Visitor) -> None:
    budget = {"hard-tokens-day": "5000", "soft-tokens-day": "4000", "hard-cost-month": "250.50"}
    team_id = await made_team(visitor, requests_per_minute="60", **budget)
    page = (await visitor.get(f"/console/teams/{team_id}")).text
    for name, value in ({"name": SHOWN, "requests_per_minute": "60"} | budget).items():
        assert re.search(rf'name="{name}"[^>]* value="{value}"', page), name
    answer = await visitor.send(f"/console/teams/{team_id}", {"name": "other", "hard-tokens-day": "7"})
    assert answer.status == 303
    page = (await visitor.get("/console/teams")).text
    assert "tokens a day: 0 of 7" in page
    assert "250.50" not in page
    assert "<i>" not in page
    assert (await visitor.send(f"/console/teams/{team_id}/delete")).status == 303
    assert "There is no team." in (await visitor.get("/console/teams")).text


async def test_keys_of_a_team_share_its_budget(
    console: tuple[RunningGateway, Visitor], visitor: Visitor
) -> None:
    gateway, _ = console
    team_id = await made_team(visitor, **{"hard-tokens-day": "6"})
    key = new_key(
        (await visitor.send("/console/keys", {"name": "a", "scopes": "inference", "team": team_id})).text
    )
    assert f"<td>{SHOWN}</td>" in (await visitor.get("/console/keys")).text
    headers = {"authorization": f"Bearer {key}"}
    assert (await gateway.post({**CHAT, "max_tokens": 2}, headers=headers)).status == 200
    assert (await gateway.post({**CHAT, "max_tokens": 2}, headers=headers)).status == 429
    # Deleted, it would leave its keys without limits.
    answer = await visitor.send(f"/console/teams/{team_id}/delete")
    assert answer.status == 400
    assert "has 1 keys" in answer.text
    async with asyncio.timeout(120):
        while "tokens a day: 5 of 6" not in (await visitor.get("/console/teams")).text:
            pass
    path = f"/console/keys/{key.split('-')[2]}"
    await visitor.send(f"{path}/limits", {"team": "", "hard-tokens-week": "100"})
    page = (await visitor.get(path)).text
    assert f'value="{team_id}" selected' not in page
    assert "tokens a week: 0 of 100" in page


async def test_use_is_that_of_the_budgets_period(tmp_path: Path) -> None:
    store = open_store(Settings(key_database=str(tmp_path / "keys.db")))
    async with running_console(tmp_path) as (_, visitor):
        await visitor.sign_in()
        team_id = await made_team(visitor, **{"hard-cost-day": "3", "soft-tokens-day": "9"})
        today = int(time.time() // 86_400)
        DailyTokens(store.engine).increment(
            {(f"team:{team_id}", today): Used(8, 1_500_000_000), (f"team:{team_id}", today - 1): Used(90, 90)}
        )
        page = (await visitor.get("/console/teams")).text
        assert "tokens a day: 8 of unlimited (soft 9)" in page
        assert "cost a day: 1.50 of 3.00" in page
        assert 'value="0.5"' in page


async def test_mistakes_in_a_teams_form_are_named(visitor: Visitor) -> None:
    team_id = await made_team(visitor)
    for fields, problem in (
        ({"name": ""}, "name: "),
        ({"name": "a", "hard-tokens-day": "many"}, "budgets"),
        ({"name": "a", "hard-cost-day": "1e9"}, "budgets"),
        ({"name": "a", "hard-tokens-day": "5", "soft-tokens-day": "6"}, "above its hard limit"),
        ({"name": "a", "tokens_per_day": "0"}, "limits.tokens_per_day"),
        ({"name": "a\u202e"}, "printable"),
    ):
        for path in ("/console/teams", f"/console/teams/{team_id}"):
            answer = await visitor.send(path, fields)
            assert answer.status == 400, (path, fields)
            alert = re.search(r'role="alert">([^<]+)<', answer.text)
            assert alert is not None
            assert problem in alert[1]


async def test_unknown_team_is_a_404(visitor: Visitor) -> None:
    path = f"/console/teams/{'0' * 12}"
    assert (await visitor.get(path)).status == 404
    for action in ("", "/delete"):
        assert (await visitor.send(path + action, {"name": "a"})).status == 404
    answer = await visitor.send("/console/keys", {"name": "a", "scopes": "inference", "team": "0" * 12})
    assert answer.status == 404
    assert "no team has the id" in answer.text
