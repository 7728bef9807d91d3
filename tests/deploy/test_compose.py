"""compose.yaml and Dockerfiles: Compose and hadolint accept them, and programs accept their options."""

import argparse
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from serval.settings import Settings
from serval_sglang.options import configure as configure_engine
from serval_sglang.settings import prebuilt_kernels
from serval_testkit.metric_names import DEPLOY
from serval_testkit.operator_tools import ROOT, OperatorTools

DOCKER = ROOT / "docker"
PROFILES = ("gpu", "cpu-demo")
SECRETS = ("POSTGRES_PASSWORD", "SERVAL_ENGINE_API_KEY", "GRAFANA_ADMIN_PASSWORD")
GRACE_UNITS = {"m": 60, "s": 1}


@pytest.fixture(params=PROFILES)
def services(request: pytest.FixtureRequest, tools: OperatorTools) -> dict[str, Any]:
    """Services of a profile and of monitoring as Compose reads them, with the example's variables."""
    printed = tools.run(
        "docker-compose", "--file", DOCKER / "compose.yaml", "--env-file", DOCKER / ".env.example",
        "--profile", request.param, "--profile", "monitoring", "config", "--format", "json",
        env={"COMPOSE_PROFILES": "", **dict.fromkeys(SECRETS, "made-up")},
    ).stdout  # fmt: skip
    found: dict[str, Any] = json.loads(printed)["services"]
    return found


def engine_and_gateway(services: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    (engine,) = [service for name, service in services.items() if name.startswith("engine")]
    (gateway,) = [service for name, service in services.items() if name.startswith("gateway")]
    return engine, gateway


def test_example_has_exactly_the_variables_of_compose() -> None:
    used = set(re.findall(r"\$\{([A-Z_]+)", (DOCKER / "compose.yaml").read_text()))
    example = set(re.findall(r"^([A-Z_]+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert used | {"COMPOSE_PROFILES"} == example


def test_defaults_match_the_example() -> None:
    example = dict(re.findall(r"^([A-Z_]+)=(.*)$", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    for name, default in re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", (DOCKER / "compose.yaml").read_text()):
        assert example[name] == default, name


def test_gateway_gets_only_settings_that_it_reads(services: dict[str, Any]) -> None:
    _, gateway = engine_and_gateway(services)
    fields = {
        name.removeprefix("SERVAL_").lower(): value
        for name, value in gateway["environment"].items()
        if name != "PGPASSWORD"  # read by libpq
    }
    assert set(fields) <= set(Settings.model_fields)
    Settings(**fields)


def test_env_files_add_settings_and_do_not_replace_composes(tools: OperatorTools, tmp_path: Path) -> None:
    gateway, engine = tmp_path / "gateway.env", tmp_path / "engine.env"
    gateway.write_text("SERVAL_KEY_PEPPER=grains\nSERVAL_ENGINE_URL=http://elsewhere\n")
    engine.write_text("NCCL_DEBUG=WARN\n")
    printed = tools.run(
        "docker-compose", "--file", DOCKER / "compose.yaml", "--env-file", DOCKER / ".env.example",
        "--profile", "cpu-demo", "config", "--format", "json",
        env={"COMPOSE_PROFILES": "", **dict.fromkeys(SECRETS, "made-up"),
             "SERVAL_GATEWAY_ENV_FILE": str(gateway), "SERVAL_ENGINE_ENV_FILE": str(engine)},
    ).stdout  # fmt: skip
    services = json.loads(printed)["services"]
    variables = services["gateway-demo"]["environment"]
    assert variables["SERVAL_KEY_PEPPER"] == "grains"
    assert variables["SERVAL_ENGINE_URL"] == "http://engine:30000"
    assert services["engine-demo"]["environment"]["NCCL_DEBUG"] == "WARN"


def test_gateway_waits_for_no_loaded_engine(services: dict[str, Any]) -> None:
    """It listens while the engine loads, so that neither clients nor Prometheus are refused."""
    _, gateway = engine_and_gateway(services)
    waits = {name: each["condition"] for name, each in gateway["depends_on"].items() if "engine" in name}
    assert set(waits.values()) == {"service_started"}


def test_engine_command_is_valid(services: dict[str, Any]) -> None:
    engine, gateway = engine_and_gateway(services)
    parser = argparse.ArgumentParser()
    configure_engine(parser)
    assert engine["command"][0] == "engine"
    given = parser.parse_args(engine["command"][1:])
    devices = engine["deploy"]["resources"].get("reservations", {}).get("devices", [])
    assert given.device == ("cuda" if devices else "cpu")
    assert given.tp == (devices[0]["count"] if devices else 1)
    if not devices:
        # The image asks for all GPUs, beside which SGLang loads CUDA kernels whatever its --device.
        assert engine["environment"]["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert given.served_model_name == gateway["environment"]["SERVAL_SERVED_MODEL_NAME"]
    assert str(given.model) == gateway["environment"]["SERVAL_MODEL"]


def test_addressed_hosts_are_services(services: dict[str, Any]) -> None:
    names = set(services)
    for service in services.values():
        for network in service["networks"].values():
            names |= set((network or {}).get("aliases", []))
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    asked = {
        target.split(":")[0]
        for job in config["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    } | {"prometheus"}
    assert asked - {"localhost"} <= names
    _, gateway = engine_and_gateway(services)
    assert gateway["environment"]["SERVAL_ENGINE_URL"] == "http://engine:30000"
    assert "engine" in names


def test_key_database_is_the_postgres_service(services: dict[str, Any]) -> None:
    _, gateway = engine_and_gateway(services)
    made = services["postgres"]["environment"]
    address = urlsplit(gateway["environment"]["SERVAL_KEY_DATABASE"])
    assert (address.username, address.hostname, address.path) == (
        made["POSTGRES_USER"], "postgres", "/" + made["POSTGRES_DB"],
    )  # fmt: skip
    assert address.password is None
    assert gateway["environment"]["PGPASSWORD"] == made["POSTGRES_PASSWORD"]
    assert gateway["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_limits_are_counted_in_the_redis_service(services: dict[str, Any]) -> None:
    _, gateway = engine_and_gateway(services)
    address = urlsplit(gateway["environment"]["SERVAL_LIMITS_URL"])
    assert (address.scheme, address.hostname, address.port) == ("redis", "redis", 6379)
    assert gateway["depends_on"]["redis"]["condition"] == "service_healthy"
    options = " ".join(services["redis"]["command"])
    # The day's tokens must survive a restart, never be evicted, and fit in the container.
    assert "--appendonly yes" in options
    assert "--maxmemory-policy noeviction" in options
    assert "--maxmemory 256mb" in options
    assert int(services["redis"]["deploy"]["resources"]["limits"]["memory"]) == 512 * 2**20


def test_published_ports_are_those_of_proxy_and_grafana_on_loopback(services: dict[str, Any]) -> None:
    published = {name for name, service in services.items() if service.get("ports")}
    assert published == {"proxy", "grafana"}
    for name in published:
        assert all(port["host_ip"] == "127.0.0.1" for port in services[name]["ports"])


def test_services_share_networks_only_with_those_they_need(services: dict[str, Any]) -> None:
    members: dict[str, set[str]] = {}
    for name, service in services.items():
        for network in service["networks"]:
            members.setdefault(network, set()).add(name.removesuffix("-demo"))
    assert members == {
        "edge": {"proxy", "gateway"},
        "engine": {"gateway", "engine", "prometheus"},
        "monitoring": {"gateway", "prometheus", "alertmanager", "grafana"},
        "data": {"gateway", "postgres", "redis"},
        "outer": {"proxy", "alertmanager", "grafana"},
    }


def test_all_networks_but_one_are_internal() -> None:
    networks = yaml.safe_load((DOCKER / "compose.yaml").read_text())["networks"]
    assert networks.pop("outer") == {}
    assert networks
    assert all(network == {"internal": True} for network in networks.values())


def test_engine_and_gateway_have_the_same_key(services: dict[str, Any]) -> None:
    engine, gateway = engine_and_gateway(services)
    key = "SERVAL_ENGINE_API_KEY"
    assert engine["environment"][key] == gateway["environment"][key] == "made-up"
    assert not any("made-up" in word for word in engine["command"])


def test_grafana_has_no_known_password(services: dict[str, Any]) -> None:
    """Grafana takes an empty password for none and keeps admin."""
    assert services["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "made-up"


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
@pytest.mark.parametrize("missing", SECRETS)
def test_compose_refuses_to_start_without_a_secret(
    tools: OperatorTools, missing: str, value: str | None
) -> None:
    """In every profile: also where Grafana does not run, so that it cannot be switched on without one."""
    env = {"COMPOSE_PROFILES": "cpu-demo", **dict.fromkeys(SECRETS, "made-up")}
    del env[missing]
    if value is not None:
        env[missing] = value
    done = tools.run(
        "docker-compose", "--file", DOCKER / "compose.yaml", "config", "--quiet", check=False, env=env
    )
    assert done.returncode != 0
    assert missing in done.stderr
    assert "set it in docker/.env" in done.stderr


def test_readme_fills_in_every_secret() -> None:
    page = (DOCKER / "README.md").read_text()
    (names,) = re.findall(r"^for name in (.*); do$", page, re.MULTILINE)
    assert names.split() == list(SECRETS)
    example = (DOCKER / ".env.example").read_text()
    assert all(f"\n{name}=\n" in example for name in SECRETS)


def test_prometheus_reads_the_gateways_metrics_where_the_proxy_has_no_route(services: dict[str, Any]) -> None:
    _, gateway = engine_and_gateway(services)
    port = gateway["environment"]["SERVAL_METRICS_PORT"]
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    (job,) = [job for job in config["scrape_configs"] if job["job_name"] == "serval-gateway"]
    (target,) = job["static_configs"]
    assert target["targets"] == [f"gateway:{port}"]
    assert port not in (DOCKER / "Caddyfile").read_text()


def test_services_are_limited_restarted_probed_and_hardened(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["deploy"]["resources"]["limits"]["memory"], name
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"], name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service["image"].endswith(":latest"), name


def test_stop_leaves_time_to_drain(services: dict[str, Any]) -> None:
    _, gateway = engine_and_gateway(services)
    grace = float(gateway["environment"]["SERVAL_SHUTDOWN_GRACE_S"])
    assert seconds(gateway["stop_grace_period"]) > grace
    assert seconds(services["proxy"]["stop_grace_period"]) > grace


def seconds(duration: str) -> int:
    return sum(int(number) * GRACE_UNITS[unit] for number, unit in re.findall(r"(\d+)([ms])", duration))


def test_checkpoints_are_mounted_read_only_and_mounted_files_exist(services: dict[str, Any]) -> None:
    for service in services.values():
        for volume in service.get("volumes", []):
            if volume["target"] == "/models":
                assert volume["read_only"] is True
            elif volume["type"] == "bind":
                assert Path(volume["source"]).exists(), volume


@pytest.mark.parametrize("name", ["gateway.Dockerfile", "engine.Dockerfile"])
def test_dockerfile_passes_hadolint(name: str, tools: OperatorTools) -> None:
    tools.run("hadolint", DOCKER / name)


@pytest.mark.parametrize("name", ["gateway.Dockerfile", "engine.Dockerfile"])
def test_dockerfile_has_a_user_and_a_configurable_base(name: str) -> None:
    text = (DOCKER / name).read_text()
    assert "\nUSER 10001:10001\n" in text
    assert text.count("\nFROM ${") == text.count("\nFROM ")
    copied = {
        path for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for path in line.split()
    }
    assert all((ROOT / path).exists() for path in copied)


def test_compiled_kernels_are_kept_in_a_volume(services: dict[str, Any]) -> None:
    engine, _ = engine_and_gateway(services)
    dockerfile = (DOCKER / "engine.Dockerfile").read_text()
    (home,) = re.findall(r"\bHOME=(\S+)", dockerfile)
    volumes = {volume["target"]: volume for volume in engine["volumes"]}
    assert (volumes[home]["type"], volumes[home]["source"]) == ("volume", "engine-cache")
    assert not volumes[home].get("read_only")
    # Hidden by the volume, the image's own kernels are elsewhere.
    (prebuilt,) = re.findall(r"\bSERVAL_PREBUILT_KERNELS=(\S+)", dockerfile)
    assert prebuilt_kernels({"SERVAL_PREBUILT_KERNELS": prebuilt}) == Path(prebuilt)
    assert not Path(prebuilt).is_relative_to(home)


def test_build_arguments_are_those_of_the_dockerfiles(services: dict[str, Any]) -> None:
    for service in engine_and_gateway(services):
        text = (ROOT / service["build"]["dockerfile"]).read_text()
        assert set(service["build"]["args"]) <= set(re.findall(r"^ARG (\w+)", text, re.MULTILINE))


def subset_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("subset_of_lock", DOCKER / "subset_of_lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_subset_keeps_the_hashes_of_the_lock() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    entry = subset_module().subset(lock, ["Typing_Extensions"])
    assert re.match(r"typing-extensions==[^ ]+ \\\n    --hash=sha256:[0-9a-f]{64}", entry)
    assert entry in lock
    assert len(subset_module().entries(lock)) == len(re.findall(r"^[a-z0-9].*==", lock, re.MULTILINE))


@pytest.mark.parametrize("wanted", ["no-such-package", "aiohttp==0.0.1"])
def test_subset_refuses_an_unlocked_package(wanted: str) -> None:
    with pytest.raises(SystemExit, match="make lock"):
        subset_module().subset((ROOT / "requirements.lock").read_text(), [wanted])
