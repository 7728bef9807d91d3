"""Delivery of an alert from a gateway without an engine to the pager, by real Prometheus and Alertmanager."""

import asyncio
import os
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from serval_testkit.gateway import running_gateway
from serval_testkit.metric_names import DEPLOY
from serval_testkit.operator_tools import OperatorTools
from serval_testkit.page_commands import commands_of
from serval_testkit.processes import free_port, running
from serval_testkit.prometheus import answered, running_prometheus

# Installed by deploy/setup/operator-tools.sh if it runs as root.
TEMPLATE = Path("/usr/share/prometheus/alertmanager/email.tmpl")


@asynccontextmanager
async def pager() -> AsyncIterator[tuple[str, "asyncio.Queue[dict[str, Any]]"]]:
    """Receive Alertmanager's webhooks."""
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        received.put_nowait(await request.json())
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/pager", take)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}/pager", received
    finally:
        await runner.cleanup()


def alertmanager_config(pager_url: str, path: Path) -> Path:
    """Repository's configuration with the pager's address and no waiting."""
    config = yaml.safe_load((DEPLOY / "alertmanager/alertmanager.yml").read_text())
    for receiver in config["receivers"]:
        if receiver["name"] == "pager":
            receiver["webhook_configs"][0]["url"] = pager_url
    for route in (config["route"], *config["route"]["routes"]):
        route["group_wait"] = "0s"
    path.write_text(yaml.safe_dump(config))
    return path


def amtool_commands() -> list[str]:
    """Every call of amtool that asks Alertmanager on the operators' pages."""
    pages = [*(DEPLOY / "runbooks").glob("*.md"), *DEPLOY.glob("*.md")]
    return [
        command.text
        for page in sorted(pages)
        for command in commands_of(page)
        if command.text.startswith("amtool --alertmanager")
    ]


@pytest.mark.skipif(
    os.geteuid() != 0 and not TEMPLATE.exists(),
    reason=f"Debian's Alertmanager needs {TEMPLATE}: run as root, or apt-get install prometheus-alertmanager",
)
async def test_lost_engine_pages_the_operator(tools: OperatorTools, tmp_path: Path) -> None:
    async with pager() as (url, received), running_gateway() as gateway:
        gateway.engine.ready = False
        address = f"127.0.0.1:{free_port()}"
        alertmanager = [
            str(tools.folder / "bin/alertmanager"), f"--storage.path={tmp_path / 'alertmanager'}",
            f"--config.file={alertmanager_config(url, tmp_path / 'alertmanager.yml')}",
            f"--web.listen-address={address}", "--cluster.listen-address=",
        ]  # fmt: skip
        targets = {"serval-gateway": gateway.url.removeprefix("http://")}
        with (
            running(alertmanager, cwd=tmp_path, environment={"GOMAXPROCS": "1"}) as program,
            running_prometheus(tools, tmp_path / "p", targets=targets, alertmanager=address) as prometheus,
        ):
            await asyncio.to_thread(program.wait_for_line, lambda line: "Listening on" in line, timeout_s=60)
            assert await answered(prometheus, 'ALERTS{alertname="ServalEngineNotReady",alertstate="firing"}')
            message = await asyncio.wait_for(received.get(), 120)
            commands = amtool_commands()
            assert len(commands) >= 4
            for command in commands:
                await asyncio.to_thread(
                    tools.run, *shlex.split(command.replace("ALERTMANAGER:9093", address))
                )
    assert message["receiver"] == "pager"
    (alert,) = message["alerts"]
    assert alert["labels"]["alertname"] == "ServalEngineNotReady"
    assert alert["annotations"]["runbook"] == "deploy/runbooks/ServalEngineNotReady.md"
