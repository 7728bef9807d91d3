"""A real browser: headless Chromium, driven by the Chrome DevTools Protocol over a WebSocket."""

import asyncio
import base64
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import pytest

from serval_testkit.processes import running

_PROGRAMS: Final = ("chromium-headless-shell", "chromium", "chromium-browser")
_PATIENCE_S: Final = 90.0
_POLL_S: Final = 0.05


def chromium() -> str:
    """Return the browser's path; skip if there is none."""
    for name in _PROGRAMS:
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip("needs a headless Chromium; install Debian's chromium-headless-shell")


class Browser:
    """One page of the browser. It notes what went wrong in it, and requests to other origins."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        # Errors of scripts and of the security policy, and dialogs that a script opened.
        self.problems: list[str] = []
        self.addresses: set[str] = set()

    async def receive(self) -> None:
        """Receive answers and events, until cancelled."""
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                self._answers.pop(data["id"]).set_result(data)
            else:
                self._note(data["method"], data["params"])

    def _note(self, event: str, details: dict[str, Any]) -> None:
        match event:
            case "Runtime.exceptionThrown":
                self.problems.append(json.dumps(details["exceptionDetails"]))
            case "Log.entryAdded" if details["entry"]["level"] == "error":
                self.problems.append(details["entry"]["text"])
            case "Page.javascriptDialogOpening":
                self.problems.append(f"a script opened a dialog: {details['message']}")
            case "Network.requestWillBeSent":
                self.addresses.add(details["request"]["url"])

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        self._number += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[self._number] = answer
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        data = await asyncio.wait_for(answer, _PATIENCE_S)
        assert "error" not in data, data
        result: dict[str, Any] = data["result"]
        return result

    async def value(self, script: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited."""
        result = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until the expression is true in the page, over loads of other pages; return its value."""
        async with asyncio.timeout(_PATIENCE_S):
            while True:
                # A page that is being left cannot be asked.
                with suppress(AssertionError):
                    if value := await self.value(script):
                        return value
                await asyncio.sleep(_POLL_S)

    async def open(self, url: str) -> None:
        """Open a page, and wait until it is loaded."""
        await self.value("window.left = true")
        await self.call("Page.navigate", url=url)
        await self.loaded()

    async def loaded(self) -> None:
        """Wait until another page than the one marked as left is loaded."""
        await self.until("!window.left && document.readyState === 'complete'")

    async def text(self, selector: str = "body") -> str:
        """Return the visible text of an element."""
        return str(await self.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def fill(self, selector: str, text: str) -> None:
        """Focus a field and type into it, in place of what it holds."""
        await self.value(
            f"(field => {{ field.focus(); field.select(); }})(document.querySelector({json.dumps(selector)}))"
        )
        await self.call("Input.insertText", text=text)

    async def press(self, key: str) -> None:
        """Press and release a key, such as Tab or Enter."""
        code = {"Tab": 9, "Enter": 13}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text
            )

    async def click(self, selector: str) -> None:
        """Click an element."""
        await self.value(f"document.querySelector({json.dumps(selector)}).click()")

    async def submit(self, selector: str) -> None:
        """Click an element that leads to another page, and wait until that is loaded."""
        await self.value("window.left = true")
        await self.click(selector)
        await self.loaded()

    async def colours(self, scheme: str) -> None:
        """Prefer the colours `light` or `dark`."""
        await self.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    async def picture(self, file: Path) -> None:
        """Write a picture of the page as PNG."""
        data = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)
        await asyncio.to_thread(file.write_bytes, base64.b64decode(data["data"]))


@asynccontextmanager
async def running_browser(*, width: int = 1100, height: int = 800) -> AsyncIterator[Browser]:
    """Run the browser with an empty profile; yields its page."""
    program = chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = [
            "--headless", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--disable-gpu",
            "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage",
            f"--window-size={width},{height}", "--hide-scrollbars",
            # Chromium's sandbox does not start for root, as CI is.
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
        ]  # fmt: skip
        # With all its helpers, which would outlive Debian's wrapper and hold what they have inherited.
        with running([program, *options, "about:blank"], cwd=Path(folder), environment=os.environ) as started:
            line = await asyncio.to_thread(
                started.wait_for_line, lambda line: "DevTools listening on" in line, timeout_s=_PATIENCE_S
            )
            async with aiohttp.ClientSession() as http:
                address = await _address_of_page(http, urlsplit(line.split()[-1]).netloc)
                async with http.ws_connect(address, max_msg_size=0) as socket:
                    browser = Browser(socket)
                    receiving = asyncio.create_task(browser.receive())
                    for domain in ("Page", "Runtime", "Log", "Network"):
                        await browser.call(f"{domain}.enable")
                    yield browser
                    receiving.cancel()


async def _address_of_page(http: aiohttp.ClientSession, place: str) -> str:
    """Return the address of the first page, once there is one."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            async with http.get(f"http://{place}/json/list") as response:
                pages = [target for target in await response.json() if target["type"] == "page"]
            if pages:
                return str(pages[0]["webSocketDebuggerUrl"])
            await asyncio.sleep(_POLL_S)
