"""Protection of all pages: headers, and templates without scripts, styles or addresses of others in them."""

import re
from pathlib import Path

import pytest

import serval.console
from serval.console.endpoints import CHAT, CONSOLE, TOKENIZE
from serval.console.pages import HEADERS
from serval_testkit.console import Visitor

FOLDER = Path(serval.console.__file__).parent
TEMPLATES = sorted((FOLDER / "templates").iterdir())
ZEROS = "0" * 12
PATHS = [
    *(
        endpoint.path.format(name="now.js", key_id=ZEROS, team_id=ZEROS, batch_id=ZEROS)
        for endpoint in CONSOLE.endpoints
    ),
    CHAT,
    TOKENIZE,
    "/console/nothing",
]


def check_headers(headers: object) -> None:
    for name, value in HEADERS.items():
        assert headers.getall(name) == [value], name  # type: ignore[attr-defined]


async def test_every_response_is_protected(visitor: Visitor) -> None:
    for path in PATHS:
        check_headers((await visitor.get(path)).headers)
        check_headers((await visitor.send(path)).headers)
        check_headers((await visitor.send(path, origin="https://evil.example")).headers)


def test_policy_allows_nothing_but_the_servers_own_files() -> None:
    policy = dict(part.strip().split(" ", 1) for part in HEADERS["content-security-policy"].split(";"))
    assert policy.pop("img-src") == "'self' data:"
    own = {"script-src", "style-src", "connect-src", "form-action"}
    assert {name for name, value in policy.items() if value == "'self'"} == own
    assert {name for name, value in policy.items() if value == "'none'"} == set(policy) - own
    assert {"default-src", "base-uri", "frame-ancestors"} <= set(policy)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_template_needs_nothing_that_the_policy_forbids(template: Path) -> None:
    text = template.read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|\|\s*safe|autoescape", text)
    assert all(re.match(r'<script src="/console/', script) for script in re.findall(r"<script[^>]*>", text))
    assert not re.search(r'(?:src|href|action)="(?:https?:)?//', text)


@pytest.mark.parametrize("script", sorted((FOLDER / "static").glob("*.js")), ids=lambda path: path.name)
def test_script_makes_no_html_of_texts(script: Path) -> None:
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|https?://|localStorage"
    )
    assert not re.search(forbidden, script.read_text())
