"""A browser of the console without scripts: it keeps cookies and sends forms as a browser does."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from serval_testkit.gateway import RunningGateway, running_gateway

ADMIN_KEY = "admin-canary-71c0"


@dataclass
class Answer:
    """A response that was read."""

    status: int
    text: str
    headers: Mapping[str, str]
    # Values of the Set-Cookie headers.
    cookies: list[str]


@dataclass
class Visitor:
    """Someone with a browser; `token` is the form token of the last page with a session."""

    url: str
    http: aiohttp.ClientSession
    token: str = ""

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request, follow no redirect, and read the response."""
        url = URL(self.url + path, encoded=True)
        async with self.http.request(method, url, allow_redirects=False, **options) as response:
            text = await response.text()
            found = re.search(r'name="token" value="([0-9a-f]+)"|data-token="([0-9a-f]+)"', text)
            if found:
                self.token = found[1] or found[2]
            return Answer(response.status, text, response.headers, response.headers.getall("Set-Cookie", []))

    async def get(self, path: str, **headers: str) -> Answer:
        """Open a page."""
        return await self.request("GET", path, headers=headers)

    async def send(self, path: str, fields: Any = (), **headers: str) -> Answer:
        """Send a form of the console's own page; a header given as "" is left out."""
        sent = {"origin": self.url, **headers}
        data = [*(fields.items() if isinstance(fields, dict) else fields)]
        if not any(name == "token" for name, _ in data):
            data.append(("token", self.token))
        given = {name: value for name, value in sent.items() if value}
        return await self.request("POST", path, data=data, headers=given)

    async def ask(self, path: str, body: Any, key: str = "", **headers: str) -> Answer:
        """Send JSON as the playground's script does."""
        sent = {"origin": self.url, "x-serval-console": self.token, "x-serval-console-key": key, **headers}
        given = {name: value for name, value in sent.items() if value}
        return await self.request("POST", path, json=body, headers=given)

    async def sign_in(self, key: str = ADMIN_KEY) -> Answer:
        """Sign in with a key and open the page *now*."""
        answer = await self.send("/console/sign-in", {"key": key})
        await self.get("/console")
        return answer


@asynccontextmanager
async def visiting(url: str) -> AsyncIterator[Visitor]:
    """Yield a visitor with cookies of their own."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
        yield Visitor(url, http)


@asynccontextmanager
async def running_console(folder: Path, **settings: Any) -> AsyncIterator[tuple[RunningGateway, Visitor]]:
    """Serve a gateway with a key database in `folder` and its console; yields a visitor of it."""
    values = {"key_database": str(folder / "keys.db"), "admin_port": 0, "admin_key": ADMIN_KEY, **settings}
    async with running_gateway(**values) as gateway, visiting(gateway.admin_url) as visitor:
        yield gateway, visitor


def new_key(page: str) -> str:
    """Return the key that a page shows once."""
    found = re.search(r'id="new-key">([^<]+)<', page)
    assert found is not None, page
    return unescape(found[1])
