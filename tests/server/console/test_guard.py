"""Forged requests: from other sites, without the token of a form, and without a session."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from serval.console.endpoints import CHAT, CONSOLE, SIGN_IN, TOKENIZE, TOKENS
from serval_testkit.console import ADMIN_KEY, Answer, Visitor, running_console, visiting
from serval_testkit.gateway import MODEL, RunningGateway

FORMS = [each.path for each in CONSOLE.endpoints if "POST" in each.methods and each not in (SIGN_IN, TOKENS)]
SCRIPTS = [CHAT, TOKENIZE, TOKENS.path]
CHAT_BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
FIELDS = {"name": "forged", "scopes": "inference"}

Attempt = Callable[[Visitor, str], Awaitable[Answer]]


async def keys_of(visitor: Visitor) -> str:
    page = (await visitor.get("/console/keys?all")).text
    return page[page.index("<tbody>") : page.index("</tbody>")]


async def one_key(visitor: Visitor) -> str:
    """Make a key; return its public id."""
    await visitor.send("/console/keys", {"name": "victim", "scopes": "inference"})
    page = await keys_of(visitor)
    return page.split("/console/keys/")[1].split('"')[0]


def path_of(path: str, key_id: str, team_id: str = "0" * 12) -> str:
    path = path.replace("{key_id}", key_id).replace("{team_id}", team_id)
    return path.replace("{batch_id}", f"batch_{'0' * 32}")


FORGERIES: dict[str, Attempt] = {
    "another site": lambda visitor, path: visitor.send(path, FIELDS, origin="https://evil.example"),
    "a sandboxed page": lambda visitor, path: visitor.send(path, FIELDS, origin="null"),
    "the same host, another port": lambda visitor, path: visitor.send(
        path, FIELDS, origin=visitor.url.rpartition(":")[0] + ":1"
    ),
    "a text that is no origin": lambda visitor, path: visitor.send(path, FIELDS, origin="http://["),
    "no origin": lambda visitor, path: visitor.send(path, FIELDS, origin=""),
    "no token": lambda visitor, path: visitor.send(path, {**FIELDS, "token": ""}),
    "another token": lambda visitor, path: visitor.send(path, {**FIELDS, "token": "0" * 64}),
}


async def test_forged_form_changes_nothing(visitor: Visitor) -> None:
    key_id = await one_key(visitor)
    before = await keys_of(visitor)
    for forgery, attempt in FORGERIES.items():
        for path in FORMS:
            answer = await attempt(visitor, path_of(path, key_id))
            assert answer.status == 403, (forgery, path)
    # Not even signed out.
    assert await keys_of(visitor) == before


async def test_forms_that_are_not_forged_are_accepted(visitor: Visitor) -> None:
    key_id = await one_key(visitor)
    await visitor.send("/console/teams", {"name": "team"})
    team_id = (await visitor.get("/console/teams")).text.split("/console/teams/")[1].split('"')[0]
    # Signing out comes last.
    for path in sorted(FORMS, key=lambda path: "sign-out" in path):
        answer = await visitor.send(path_of(path, key_id, team_id), FIELDS)
        # There is no batch.
        assert answer.status in ((404,) if "/batches/" in path else (200, 303)), path


async def test_token_of_another_session_is_refused(
    console: tuple[RunningGateway, Visitor], visitor: Visitor
) -> None:
    async with visiting(visitor.url) as other:
        await other.sign_in()
        assert (await visitor.send("/console/keys", {**FIELDS, "token": other.token})).status == 403


async def test_forged_request_of_a_script_is_refused(
    console: tuple[RunningGateway, Visitor], visitor: Visitor
) -> None:
    gateway, _ = console
    for path in SCRIPTS:
        for headers in (
            {"origin": "https://evil.example"},
            {"origin": ""},
            {"x-serval-console": ""},
            {"x-serval-console": "0" * 64},
        ):
            assert (await visitor.ask(path, CHAT_BODY, **headers)).status == 403, (path, headers)
    assert gateway.engine.requests == []


async def test_pages_and_forms_lead_to_the_sign_in(console: tuple[RunningGateway, Visitor]) -> None:
    _, visitor = console
    pages = [each.path for each in CONSOLE.endpoints if "sign-in" not in each.path and "GET" in each.methods]
    for path in pages:
        answer = await visitor.get(path_of(path, "0" * 12))
        if "/static/" in path or path == "/console/enter":
            continue
        assert (answer.status, answer.headers["location"]) == (303, "/console/sign-in"), path
    for path in FORMS:
        answer = await visitor.send(path_of(path, "0" * 12), FIELDS)
        assert (answer.status, answer.headers["location"]) == (303, "/console/sign-in"), path
    for path in SCRIPTS:
        answer = await visitor.ask(path, CHAT_BODY)
        assert answer.status in (303, 401), path


async def test_admin_api_takes_no_cookie(visitor: Visitor) -> None:
    assert (await visitor.get("/admin/keys")).status == 401


async def test_console_takes_no_bearer_key(console: tuple[RunningGateway, Visitor]) -> None:
    _, visitor = console
    answer = await visitor.get("/console/keys", authorization=f"Bearer {ADMIN_KEY}")
    assert answer.status == 303


async def test_proxy_that_renames_the_host_needs_the_consoles_address(tmp_path: Path) -> None:
    async with running_console(tmp_path, console_url="https://console.example") as (_, visitor):
        for origin, status in (("https://console.example", 200), ("https://evil.example", 403)):
            answer = await visitor.send("/console/sign-in", {"key": ADMIN_KEY}, origin=origin)
            assert answer.status == status
