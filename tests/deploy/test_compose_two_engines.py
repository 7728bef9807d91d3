"""docker/compose.two-engines.yaml: two engines behind one gateway, on GPUs of their own, and scraped."""

import json
from typing import Any

import pytest
import yaml

from serval.engine.discovery import expand, is_single
from serval_testkit.metric_names import DEPLOY
from serval_testkit.operator_tools import ROOT, OperatorTools

DOCKER = ROOT / "docker"
SECRETS = ("POSTGRES_PASSWORD", "SERVAL_ENGINE_API_KEY", "GRAFANA_ADMIN_PASSWORD")
COMMAND = "docker compose -f docker/compose.yaml -f docker/compose.two-engines.yaml up -d --wait"


@pytest.fixture(params=["gpu", "cpu-demo"])
def services(request: pytest.FixtureRequest, tools: OperatorTools) -> dict[str, Any]:
    """Services of a profile and of monitoring, by the names under which others find them."""
    files = ("--file", DOCKER / "compose.yaml", "--file", DOCKER / "compose.two-engines.yaml")
    printed = tools.run(
        "docker-compose", *files, "--env-file", DOCKER / ".env.example",
        "--profile", request.param, "--profile", "monitoring", "config", "--format", "json",
        env={"COMPOSE_PROFILES": "", **dict.fromkeys(SECRETS, "made-up")},
    ).stdout  # fmt: skip
    found: dict[str, Any] = json.loads(printed)["services"]
    for name, service in list(found.items()):
        for network in service["networks"].values():
            found |= dict.fromkeys((network or {}).get("aliases", []), service)
        assert name in found
    return found


def test_gateway_uses_both_engines(services: dict[str, Any]) -> None:
    url = services["gateway"]["environment"]["SERVAL_ENGINE_URL"]
    assert not is_single(url)
    assert expand(url) == ["http://engine:30000", "http://engine-1:30000"]
    assert {"engine", "engine-1"} <= set(services)
    waits = {n: w["condition"] for n, w in services["gateway"]["depends_on"].items() if "engine" in n}
    assert len(waits) == 2
    assert set(waits.values()) == {"service_started"}


def test_engines_differ_in_gpus_and_in_the_volume_of_kernels_only(services: dict[str, Any]) -> None:
    def differing(engine: dict[str, Any]) -> tuple[set[str], str]:
        devices = engine["deploy"]["resources"].pop("reservations", {}).get("devices", [])
        (cache,) = [v for v in engine["volumes"] if v["target"] == "/var/cache/serval"]
        engine["volumes"].remove(cache)
        engine.pop("networks")
        return {gpu for device in devices for gpu in device["device_ids"]}, cache["source"]

    gpus, caches = zip(*(differing(services[name]) for name in ("engine", "engine-1")), strict=True)
    assert gpus[0].isdisjoint(gpus[1])
    assert len(gpus[0]) == len(gpus[1])
    if gpus[0]:
        assert services["engine"]["command"][5] == f"--tp={len(gpus[0])}"
    assert caches == ("engine-cache", "engine-1-cache")
    assert services["engine"] == services["engine-1"]


def test_both_engines_are_scraped(services: dict[str, Any]) -> None:
    """By a configuration that is otherwise that of one engine."""
    (option,) = [word for word in services["prometheus"]["command"] if word.startswith("--config.file=")]
    assert option.endswith("/prometheus-two-engines.yml")
    two, one = (
        yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
        for name in ("prometheus-two-engines.yml", "prometheus.yml")
    )
    jobs = {job["job_name"]: job.pop("static_configs") for job in two["scrape_configs"]}
    of_one = {job["job_name"]: job.pop("static_configs") for job in one["scrape_configs"]}
    assert two == one
    engines = {c["targets"][0].split(":")[0]: c["labels"] for c in jobs.pop("serval-engine")}
    ((target, labels),) = [(c["targets"], c["labels"]) for c in of_one.pop("serval-engine")]
    assert target == ["engine:30000"]
    assert engines["engine"].items() >= labels.items()
    assert engines == {"engine": engines["engine"], "engine-1": {**engines["engine"], "engine": "1"}}
    assert set(engines) <= set(services)
    # A gateway over both belongs to none.
    (gateway,), (of_one_engine,) = jobs.pop("serval-gateway"), of_one.pop("serval-gateway")
    assert gateway["targets"] == of_one_engine["targets"]
    assert "engine" not in gateway["labels"]
    assert gateway["labels"].keys() >= of_one_engine["labels"].keys() - {"engine"}
    assert jobs == of_one


def test_pages_name_the_command() -> None:
    assert COMMAND in (DOCKER / "README.md").read_text()
    assert COMMAND in (DOCKER / "compose.two-engines.yaml").read_text()
