"""`/admin/teams`, and teams and budgets on `/admin/keys`."""

from pathlib import Path
from typing import Any

from serval_testkit.gateway import RunningGateway, running_gateway

ADMIN_KEY = "admin-secret"


async def call(gateway: RunningGateway, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with gateway.http.request(method, gateway.admin_url + path, headers=headers, json=body) as response:
        return response.status, await response.json()


async def test_admin_team_and_its_keys(tmp_path: Path) -> None:
    async with running_gateway(
        key_database=str(tmp_path / "keys.db"), admin_port=0, admin_key=ADMIN_KEY
    ) as gateway:
        budget = {"unit": "cost", "period": "month", "hard": "250", "soft": "200"}
        status, team = await call(gateway, "POST", "/admin/teams", {"name": "lab", "budgets": [budget]})
        assert (status, team["budgets"][0]["hard"]) == (201, "250.00")
        given = {"name": "a", "team": team["id"], "budgets": [{"unit": "tokens", "period": "day", "hard": 5}]}
        status, key = await call(gateway, "POST", "/admin/keys", given)
        assert (status, key["team"]) == (201, team["id"])
        one = f"/admin/keys/{key['id']}"
        # Omitted fields stay; `budgets` and a null team replace.
        _, same = await call(gateway, "PATCH", one, {"limits": {"tokens_per_minute": 5}})
        assert (same["team"], same["budgets"]) == (key["team"], key["budgets"])
        status, refused = await call(gateway, "DELETE", f"/admin/teams/{team['id']}")
        assert (status, refused["error"]["code"]) == (400, "team_has_keys")
        _, free = await call(gateway, "PATCH", one, {"team": None, "budgets": []})
        assert (free["team"], free["budgets"]) == (None, [])
        _, named = await call(gateway, "PATCH", f"/admin/teams/{team['id']}", {"name": "new"})
        assert (named["name"], named["budgets"]) == ("new", team["budgets"])
        assert (await call(gateway, "GET", "/admin/teams"))[1]["data"] == [named]
        assert (await call(gateway, "DELETE", f"/admin/teams/{team['id']}"))[0] == 200
        status, unknown = await call(gateway, "PATCH", one, {"team": team["id"]})
        assert (status, unknown["error"]["code"]) == (404, "team_not_found")
        headers = {"authorization": f"Bearer {key['key']}"}
        async with gateway.http.get(gateway.admin_url + "/admin/teams", headers=headers) as response:
            assert response.status == 403


WRONG: list[tuple[Any, str]] = [
    ({"name": ""}, "name"),
    ({"name": "a\nb"}, "name"),
    ({"name": "a", "budgets": [{"unit": "cost", "period": "day", "hard": "0.0000000001"}]}, "budgets[0]"),
    ({"name": "a", "budgets": [{"unit": "tokens", "period": "day", "hard": "1.5"}]}, "budgets"),
    ({"name": "a", "budgets": [{"unit": "tokens", "period": "year", "hard": 5}]}, "budgets[0].period"),
    ({"name": "a", "budgets": [{"unit": "tokens", "period": "day", "hard": 5}] * 2}, "budgets"),
    ({"name": "a", "budgets": [{"unit": "tokens", "period": "day", "hard": 5, "soft": 6}]}, "budgets"),
    ({"name": "a", "limits": {"tokens_per_day": 0}}, "limits"),
]


async def test_admin_team_that_is_wrong_is_refused(tmp_path: Path) -> None:
    async with running_gateway(
        key_database=str(tmp_path / "keys.db"), admin_port=0, admin_key=ADMIN_KEY
    ) as gateway:
        for body, param in WRONG:
            status, answer = await call(gateway, "POST", "/admin/teams", body)
            assert (status, answer["error"]["param"].startswith(param)) == (400, True), body
        assert (await call(gateway, "GET", "/admin/teams"))[1]["data"] == []
