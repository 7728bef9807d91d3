"""Take the pictures of the dashboards: two engine stand-ins under load, of which one is killed.

python deploy/grafana/take_pictures.py FOLDER [MINUTES]

A gateway, Prometheus with the repository's rules, and agents and chats for MINUTES (5); then the dashboards
are drawn, one engine is killed, and as many minutes later `serval-overview-engine-dead.svg` is drawn.
With PICTURES_URL and PICTURES_ENGINE, the addresses (host:port) of a gateway and a real engine
that run already, and the gateway's key in SERVAL_API_KEY, it draws only *Serval: engine* and
*n-gram tables* instead, under a light load of chats.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import draw_dashboards
import yaml

from serval_load.programs import free_port, running_gateway, running_program, running_stand_in

DEPLOY = Path(__file__).resolve().parents[1]
KEY = "sk-pictures"
SCRAPE_S = 5
# Fast enough for a small machine to be the clients' limit.
SPEED = (
    "--decode-base-s=0.02",
    "--decode-request-s=0.0005",
    "--prefill-token-s=0.00004",
    "--kv-tokens=800000",
)


@asynccontextmanager
async def prometheus(folder: Path, targets: Mapping[str, Sequence[str]]) -> AsyncIterator[str]:
    """Run Prometheus with the repository's rules; `targets` are addresses by job. Yields its URL."""
    tools = await asyncio.to_thread(subprocess.check_output, [DEPLOY / "setup/operator-tools.sh"], text=True)
    config = {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
        "rule_files": [str(DEPLOY / "prometheus/rules/*.yml")],
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [
                    {"targets": [address], "labels": labels(job, number)}
                    for number, address in enumerate(addresses)
                ],
            }
            for job, addresses in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        f"{tools.strip()}/bin/prometheus", f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}",
    ]  # fmt: skip
    async with running_program("prometheus", command) as program:
        await program.wait_for_line("ready to receive web requests")
        yield f"http://{address}"


def labels(job: str, number: int) -> dict[str, str]:
    """Labels that the chart gives a target."""
    engine = {"engine": str(number)} if job == "serval-engine" else {}
    return {"release": "serval", "model": "longcat-flash-lite"} | engine


@asynccontextmanager
async def load(url: str, key: str, model: str, *kinds: tuple[str, float]) -> AsyncIterator[None]:
    """Put workloads on the gateway, each with its sessions a second."""
    async with AsyncExitStack() as stack:
        for kind, rate in kinds:
            command = [
                sys.executable, "-m", "serval_load", "load", kind, f"--url={url}", f"--key={key}",
                f"--model={model}", f"--rate={rate}", "--seconds=3600", "--vanish=0.02",
            ]  # fmt: skip
            await stack.enter_async_context(running_program(f"load-{kind}", command))
        yield


def address_of(url: str) -> str:
    return url.removeprefix("http://")


async def stand_ins(folder: Path, minutes: float) -> None:
    """Draw all dashboards but the engine's, and the overview once more without one of two engines."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(running_stand_in(*SPEED)) for _ in range(2)]
        _, url = await stack.enter_async_context(
            running_gateway(",".join(one for _, one in engines), environment={"SERVAL_API_KEY": KEY})
        )
        targets = {
            "serval-gateway": [address_of(url)],
            "serval-engine": [address_of(one) for _, one in engines],
        }
        work = stack.enter_context(tempfile.TemporaryDirectory())
        watch = await stack.enter_async_context(prometheus(Path(work), targets))
        await stack.enter_async_context(load(url, KEY, "stand-in", ("agent", 0.08), ("chat", 1.5)))
        await asyncio.sleep(60 * minutes)
        names = ("serval-overview", "serval-gateway", "serval-places", "serval-tenants")
        await asyncio.to_thread(draw_dashboards.draw_into, watch, folder, minutes, names)
        engines[1][0].process.kill()
        await asyncio.sleep(60 * minutes)
        dead = ("serval-overview",)
        await asyncio.to_thread(
            draw_dashboards.draw_into, watch, folder, 2 * minutes, dead, suffix="-engine-dead"
        )


async def real_engine(folder: Path, minutes: float, gateway: str, engine: str) -> None:
    """Draw the engine's dashboards from a real engine that runs already."""
    async with AsyncExitStack() as stack:
        work = stack.enter_context(tempfile.TemporaryDirectory())
        targets = {"serval-gateway": [gateway], "serval-engine": [engine]}
        watch = await stack.enter_async_context(prometheus(Path(work), targets))
        key, model = os.environ["SERVAL_API_KEY"], "longcat-flash-lite-demo"
        await stack.enter_async_context(load(f"http://{gateway}", key, model, ("chat", 0.5)))
        await asyncio.sleep(60 * minutes)
        names = ("serval-engine", "serval-ngram")
        await asyncio.to_thread(draw_dashboards.draw_into, watch, folder, minutes, names)


async def main(arguments: Sequence[str]) -> None:
    """Take the pictures that the environment asks for."""
    if len(arguments) not in (2, 3):
        sys.exit(__doc__)
    folder, minutes = Path(arguments[1]), float(arguments[2]) if len(arguments) == 3 else 5.0
    engine = os.environ.get("PICTURES_ENGINE")
    if engine is None:
        await stand_ins(folder, minutes)
    else:
        await real_engine(folder, minutes, os.environ["PICTURES_URL"], engine)


if __name__ == "__main__":
    asyncio.run(main(sys.argv))
