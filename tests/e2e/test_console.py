"""The console of `make serve ARGS=--console` in a real browser, on the real engine.

CONSOLE_PICTURES=server/pictures python -m pytest tests/e2e/test_console.py   makes the pictures of CONSOLE.md
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from aiohttp import web

from serval_testkit.browser import Browser, running_browser
from serval_testkit.clients import installed_script
from serval_testkit.console import ADMIN_KEY, running_console
from serval_testkit.scripted_engine import ScriptedEngine, calls, says

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="module")]

INJECTED = "<img src=x onerror=alert(1)><script>alert(2)</script>"
ANSWERED = "document.querySelectorAll('.answer[data-finished]').length === {}"
NOTE_ARGUMENTS = """
window.seen = new Set();
new MutationObserver(() => seen.add(document.querySelector(".call .arguments")?.textContent))
  .observe(document.querySelector("#transcript"), { childList: true, subtree: true });
0
"""
PAGES = ("", "/usage", "/keys", "/teams", "/batches", "/playground")


@dataclass
class SignedIn:
    """A browser that has opened the link that the server printed."""

    browser: Browser
    url: str
    link: str

    async def picture(self, name: str) -> None:
        folder = os.environ.get("CONSOLE_PICTURES")
        if folder:
            await self.browser.picture(Path(folder) / f"console-{name}.png")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def console(server: Any) -> AsyncIterator[SignedIn]:
    link = server.ready_line.partition(" console=")[2].split()[0]
    place = urlsplit(link)
    async with running_browser() as browser:
        await browser.open(link)
        await browser.until("location.pathname === '/console' && document.readyState === 'complete'")
        yield SignedIn(browser, f"{place.scheme}://{place.netloc}", link)


async def made_key(console: SignedIn, name: str) -> str:
    """Make a key on its page; return it."""
    await console.browser.open(f"{console.url}/console/keys")
    await console.browser.fill("#name", name)
    await console.browser.submit("#make")
    return await console.browser.text("#new-key")


async def requests_of(browser: Browser, name: str) -> str | None:
    """Return the number of requests in the row of the key; None if the page is another or has no such row."""
    found = await browser.value(
        "[...document.querySelectorAll('#usage tbody tr')].find(row => row.innerText.startsWith"
        f"({json.dumps(name)}))?.cells[1].innerText"
    )
    return None if found is None else str(found)


async def ask(browser: Browser, text: str) -> None:
    await browser.fill("#message", text)
    await browser.click("#send")


async def test_key_is_made_used_seen_in_the_usage_and_revoked(console: SignedIn) -> None:
    browser = console.browser
    key = await made_key(console, "alice")
    await console.picture("keys")

    await browser.open(f"{console.url}/console/playground")
    await browser.fill("#key", key)
    await browser.value(NOTE_ARGUMENTS)
    await ask(browser, "What is the weather in Paris for the next 3 days?")
    await browser.until(ANSWERED.format(1))
    assert await browser.text(".call .name") == "Call of get_weather"
    assert json.loads(await browser.text(".call .arguments")) == {"city": "Paris", "days": 3}
    # As they came, piece by piece.
    assert await browser.value("seen.size") > 1
    await browser.click(".shown summary")
    shown = await browser.value(
        "[...document.querySelectorAll('.tokens span')].map(each => each.textContent)"
    )
    controls = await browser.value(
        "[...document.querySelectorAll('.tokens .control')].map(each => each.textContent)"
    )
    assert {"<longcat_tool_declare>", "<longcat_user>", "<longcat_assistant>"} <= set(controls)
    assert "get_weather" in "".join(shown)
    # The engine counted as many as the page shows.
    timings = await browser.text(".timings")
    assert f"Prompt\n{len(shown)} tokens" in timings
    assert "First token" in timings
    await console.picture("playground")
    await browser.fill(".result", json.dumps({"city": "Paris", "forecast": "sunny", "temp_c": 21}))
    await browser.click(".give")
    await browser.until(ANSWERED.format(2))
    assert "sunny, 21" in await browser.text(".answer:last-child .content")

    await browser.open(f"{console.url}/console")
    await browser.until("document.querySelector('#figures').innerText.includes('ready')")
    await console.picture("now")
    await browser.colours("dark")
    async with asyncio.timeout(120):
        # Counted a second or two after an answer.
        while await requests_of(browser, "alice") != "2":
            await browser.open(f"{console.url}/console/usage?by=key&days=1")
    await console.picture("usage")
    await browser.colours("light")

    await browser.open(f"{console.url}/console/keys/{key.split('-')[2]}")
    await browser.submit("#revoke")
    assert "alice" not in await browser.text("main")
    await browser.open(f"{console.url}/console/playground")
    await browser.fill("#key", key)
    await ask(browser, "Hello")
    await browser.until("document.querySelector('#problem').textContent.includes('revoked')")
    # Refused requests are errors in the browser's log; nothing else is.
    assert all("401" in problem for problem in browser.problems), browser.problems
    browser.problems.clear()


async def test_link_signs_in_once(console: SignedIn) -> None:
    await console.browser.open(console.link)
    assert "was used before" in await console.browser.text()
    console.browser.problems.clear()


async def test_pages_load_nothing_from_elsewhere(console: SignedIn) -> None:
    for page in PAGES:
        await console.browser.open(f"{console.url}/console{page}")
    elsewhere = {url for url in console.browser.addresses if not url.startswith((console.url, "data:"))}
    assert elsewhere == set()
    assert console.browser.problems == []


async def test_pages_have_no_serious_fault_of_accessibility(console: SignedIn) -> None:
    axe = installed_script("axe-core/axe.min.js").read_text()
    for colours in ("light", "dark"):
        await console.browser.colours(colours)
        for page in (*PAGES, "/sign-in", "/nothing"):
            await console.browser.open(f"{console.url}/console{page}")
            await console.browser.value(f"{axe}; 0")
            found = await console.browser.value("axe.run().then(result => JSON.stringify(result.violations))")
            faults = [
                (fault["id"], [node["html"] for node in fault["nodes"]])
                for fault in json.loads(found)
                if fault["impact"] in ("serious", "critical")
            ]
            assert faults == [], (colours, page)
    await console.browser.colours("light")
    console.browser.problems.clear()


async def test_console_works_by_keyboard(console: SignedIn, tmp_path: Path) -> None:
    browser = console.browser
    async with running_console(tmp_path) as (_, visitor):
        await browser.open(f"{visitor.url}/console/sign-in")
        await browser.until("document.activeElement.id === 'key'")
        await browser.call("Input.insertText", text=ADMIN_KEY)
        await browser.press("Enter")
        await browser.until("location.pathname === '/console' && document.readyState === 'complete'")
        await browser.press("Tab")
        await browser.until("document.activeElement.innerText === 'Skip to the content'")
        await browser.press("Enter")
        await browser.press("Tab")
        await browser.until("document.activeElement.id === 'pause'")
        await browser.press("Enter")
        await browser.until("document.activeElement.getAttribute('aria-pressed') === 'true'")


async def test_injected_texts_stay_texts(console: SignedIn, tmp_path: Path) -> None:
    browser = console.browser
    answers = iter([says(INJECTED), says(calls("get_weather", city=INJECTED))])
    engine = ScriptedEngine(lambda prompt: next(answers))
    async with running_console(tmp_path, engine=engine.engine) as (_, visitor):
        await browser.open(f"{visitor.url}/console/sign-in")
        await browser.fill("#key", ADMIN_KEY)
        await browser.submit("main button")
        await browser.until("location.pathname === '/console' && document.readyState === 'complete'")
        await made_key(SignedIn(browser, visitor.url, ""), INJECTED)
        assert INJECTED in await browser.text("main")
        await browser.open(f"{visitor.url}/console/playground")
        await browser.fill("#system", INJECTED)
        await ask(browser, INJECTED)
        await browser.until(ANSWERED.format(1))
        assert await browser.text(".answer .content") == INJECTED
        await ask(browser, INJECTED)
        await browser.until(ANSWERED.format(2))
        assert json.loads(await browser.text(".call .arguments")) == {"city": INJECTED}
        await browser.value("document.querySelectorAll('.shown').forEach(each => each.open = true)")
        assert INJECTED in await browser.text(".answer:last-child .tokens")
        await browser.fill("#tools", json.dumps([{"type": "function", "function": {"name": INJECTED}}]))
        await ask(browser, "Hi")
        await browser.until("document.querySelector('#problem').textContent")
        assert await browser.value("document.querySelectorAll('main img, main script').length") == 0
    # The refusal of the tool's name; no dialog, and nothing for the security policy to stop.
    assert all("400" in problem for problem in browser.problems), browser.problems
    browser.problems.clear()


FORGED = """<body><form id="form" method="post" action="{url}/console/keys">
<input name="name" value="forged"><input name="scopes" value="admin"></form>
<iframe src="{url}/console"></iframe><script>form.submit()</script>"""


async def test_pages_of_others_change_nothing(console: SignedIn) -> None:
    browser = console.browser

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=FORGED.format(url=console.url), content_type="text/html")

    app = web.Application()
    app.add_routes([web.get("/", page)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        # Another port is the same site to a browser, which then sends the cookie; another host is not.
        for host in ("127.0.0.1", "localhost"):
            await browser.open(f"http://{host}:{port}/")
            await browser.until(f"location.href.startsWith({json.dumps(console.url)})")
            assert "does not come from a page of this console" in await browser.text()
    finally:
        await runner.cleanup()
    await browser.open(f"{console.url}/console/keys?all")
    assert "forged" not in await browser.text("main")
    browser.problems.clear()
