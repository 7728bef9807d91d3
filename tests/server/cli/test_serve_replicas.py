"""`serval serve --replicas N`: engines and gateway as one program, with stand-ins for the engines."""

import asyncio
import signal
import sys
from pathlib import Path

import aiohttp

from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.gateway_process import wait_until
from serval_testkit.launcher import with_stand_in
from serval_testkit.processes import descendants, free_port, is_running, running
from serval_testkit.repository import ROOT

KEY = "sk-serval-0123456789abcdef0123456789abcdef"


async def test_serve_with_replicas_uses_all_engines_and_stops_them(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "serval", "serve", "--model", str(DEMO_CHECKPOINT), "--replicas", "2"]
    environment = with_stand_in(tmp_path) | {"SERVAL_API_KEY": KEY}
    with running([*argv, "--port", str(free_port())], cwd=ROOT, environment=environment) as program:
        ready = await asyncio.to_thread(
            program.wait_for_line, lambda line: line.startswith("serval ready"), timeout_s=180
        )
        assert " engines=2 " in ready
        url = ready.split("url=")[1].split()[0]
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as http:
            for number in range(16):
                messages = [{"role": "user", "content": f"Question {number}"}]
                body = {"model": "checkpoint", "messages": messages}
                async with http.post(f"{url}/chat/completions", json=body) as response:
                    assert response.status == 200
            async with http.get(url.removesuffix("/v1") + "/metrics") as page:
                text = await page.text()
        sent = [line for line in text.splitlines() if line.startswith("serval_place_requests_total")]
        assert len(sent) == 2
        assert sum(float(line.split()[-1]) for line in sent) == 16
        started = descendants(program.process.pid)
        program.signal(signal.SIGINT)
        assert await asyncio.to_thread(program.wait, timeout_s=120) == 0
        await wait_until(lambda: not any(map(is_running, started)))
    parts = [line for line in program.output.splitlines() if "engine started" in line]
    assert sorted(line.split(" | ")[0] for line in parts) == ["engine 0", "engine 1"]
