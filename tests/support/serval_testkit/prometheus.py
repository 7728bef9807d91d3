"""A real Prometheus with the real configuration, except for addresses and shorter intervals."""

import asyncio
import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from serval_testkit.metric_names import DEPLOY, RULE_FILES
from serval_testkit.operator_tools import OperatorTools
from serval_testkit.processes import free_port, running

_START_TIMEOUT_S = 120.0
_WAIT_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    url: str

    def query(self, expression: str) -> list[Any]:
        """Return the samples of an instant query."""
        answer = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        result: list[Any] = answer["result"]
        return result

    def metric_names(self) -> set[str]:
        """Return the names of all metrics scraped so far."""
        return set(self._get("/api/v1/label/__name__/values"))

    def scrape_errors(self) -> list[str]:
        """Return the error of the last scrape of each target."""
        targets = self._get("/api/v1/targets")["activeTargets"]
        return [target["lastError"] for target in targets if target["lastError"]]

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:  # noqa: S310
            return json.load(response)["data"]


@contextmanager
def running_prometheus(
    tools: OperatorTools,
    folder: Path,
    *,
    targets: Mapping[str, str],
    alertmanager: str | None = None,
    interval_s: int = 1,
) -> Iterator[Prometheus]:
    """Run Prometheus with the repository's rules; `targets` are addresses by job. Alerts fire immediately.

    A scrape may take as long as `interval_s`, the time until the next one.
    """
    (folder / "rules").mkdir(parents=True)
    for path in RULE_FILES:
        (folder / "rules" / path.name).write_text(re.sub(r"\bfor: \w+", "for: 0s", path.read_text()))
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{interval_s}s", "evaluation_interval": "1s"}
    config["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in targets.items()
    ]
    config["alerting"]["alertmanagers"] = (
        [{"static_configs": [{"targets": [alertmanager]}]}] if alertmanager else []
    )
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    argv = [
        str(tools.folder / "bin/prometheus"), f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}",
    ]  # fmt: skip
    with running(argv, cwd=folder, environment={"GOMAXPROCS": "1"}) as program:
        program.wait_for_line(
            lambda line: "ready to receive web requests" in line, timeout_s=_START_TIMEOUT_S
        )
        yield Prometheus(f"http://{address}")


async def answered(prometheus: Prometheus, expression: str) -> list[Any]:
    """Return the samples of `expression` as soon as there are any; [] if there are none for two minutes."""
    deadline = time.monotonic() + _WAIT_TIMEOUT_S
    while time.monotonic() < deadline:
        samples = await asyncio.to_thread(prometheus.query, expression)
        if samples:
            return samples
        await asyncio.sleep(0.2)
    return []
