"""The pages of keys."""

import asyncio
import re
from html import escape

from serval_testkit.console import Visitor, new_key
from serval_testkit.gateway import MODEL, RunningGateway

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
MALICIOUS = """<script>alert(1)</script>"'><img src=x onerror=alert(1)> {{ 7 * 7 }} javascript:"""


async def ask(gateway: RunningGateway, key: str) -> int:
    response = await gateway.post(CHAT, headers={"authorization": f"Bearer {key}"})
    return int(response.status)


def id_of(key: str) -> str:
    return key.split("-")[2]


async def test_key_is_made_shown_once_and_works(
    console: tuple[RunningGateway, Visitor], visitor: Visitor
) -> None:
    gateway, _ = console
    fields = [
        ("name", "alice"), ("scopes", "inference"), ("scopes", "bulk"), ("models", MODEL), ("days", "3"),
        ("requests_per_minute", "60"), ("tokens_per_day", "unlimited"),
    ]  # fmt: skip
    key = new_key((await visitor.send("/console/keys", fields)).text)
    assert await ask(gateway, key) == 200
    page = (await visitor.get("/console/keys")).text
    assert key not in page
    row = re.sub(r"<[^>]+>|\s+", " ", page[page.index("<tbody>") : page.index("</tbody>")])
    limits = "requests per minute: 60, tokens per day: unlimited"
    assert re.search(rf"alice +{id_of(key)} +live +bulk, inference +{MODEL} +- +{limits}", row)


async def test_mistake_in_a_form_is_named_and_the_form_keeps_its_fields(visitor: Visitor) -> None:
    name, scope = ("name", "<a>"), ("scopes", "inference")
    mistakes = (
        ([scope], "name: "),
        ([name], "scopes: "),
        ([name, ("scopes", "root")], "There is no scope"),
        ([name, scope, ("days", "-1")], "days: "),
        ([name, scope, ("tokens_per_day", "many")], "limits.tokens_per_day"),
        ([name, scope, ("tokens_per_day", "9" * 11)], "limits.tokens_per_day"),
        ([("name", "a\u202eb"), scope], "printable"),
    )
    for fields, problem in mistakes:
        answer = await visitor.send("/console/keys", fields)
        assert answer.status == 400, fields
        alert = re.search(r'role="alert">([^<]+)<', answer.text)
        assert alert is not None
        assert problem in alert[1]
        assert (
            f'name="name" required maxlength="200" value="{escape(dict(fields).get("name", ""))}"'
            in answer.text
        )
        assert "There is no key." in answer.text


async def test_names_of_keys_are_shown_as_text(visitor: Visitor) -> None:
    answer = await visitor.send("/console/keys", {"name": MALICIOUS, "scopes": "inference"})
    key_id = id_of(new_key(answer.text))
    pages = [
        answer.text,
        (await visitor.get("/console/keys")).text,
        (await visitor.get(f"/console/keys/{key_id}")).text,
        (await visitor.send("/console/keys", {"name": MALICIOUS, "scopes": "none"})).text,
    ]
    for page in pages:
        assert escape(MALICIOUS).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
        assert "<script>alert" not in page
        assert "<img" not in page


async def test_limits_are_changed(visitor: Visitor) -> None:
    key = new_key((await visitor.send("/console/keys", {"name": "a", "scopes": "inference"})).text)
    path = f"/console/keys/{id_of(key)}"
    answer = await visitor.send(f"{path}/limits", {"tokens_per_day": "500"})
    assert (answer.status, answer.headers["location"]) == (303, path)
    assert 'name="tokens_per_day" value="500"' in (await visitor.get(path)).text
    wrong = await visitor.send(f"{path}/limits", {"tokens_per_day": "-5"})
    assert wrong.status == 400
    assert 'name="tokens_per_day" value="500"' in wrong.text


async def test_rotated_key_has_a_successor_and_grace(
    console: tuple[RunningGateway, Visitor], visitor: Visitor
) -> None:
    gateway, _ = console
    old = new_key((await visitor.send("/console/keys", {"name": "a", "scopes": "inference"})).text)
    new = new_key((await visitor.send(f"/console/keys/{id_of(old)}/rotate", {"hours": "1"})).text)
    assert [await ask(gateway, key) for key in (old, new)] == [200, 200]
    assert (await visitor.send(f"/console/keys/{id_of(new)}/rotate", {"hours": "x"})).status == 400


async def test_revoked_key_is_refused_and_hidden(
    console: tuple[RunningGateway, Visitor], visitor: Visitor
) -> None:
    gateway, _ = console
    key = new_key((await visitor.send("/console/keys", {"name": "a", "scopes": "inference"})).text)
    answer = await visitor.send(f"/console/keys/{id_of(key)}/revoke")
    assert (answer.status, answer.headers["location"]) == (303, "/console/keys")
    async with asyncio.timeout(120):
        while await ask(gateway, key) != 401:
            pass
    assert "There is no key." in (await visitor.get("/console/keys")).text
    assert "revoked" in (await visitor.get("/console/keys?all")).text
    page = (await visitor.get(f"/console/keys/{id_of(key)}")).text
    assert 'id="revoke"' not in page


async def test_unknown_key_is_a_404(visitor: Visitor) -> None:
    path = f"/console/keys/{'0' * 12}"
    assert (await visitor.get(path)).status == 404
    for action in ("limits", "rotate", "revoke"):
        assert (await visitor.send(f"{path}/{action}")).status == 404
