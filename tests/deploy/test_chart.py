"""Helm chart: Helm and the Kubernetes API accept it, and the programs accept its options and settings."""

import argparse
import asyncio
import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from serval.settings import Settings
from serval.telemetry.metrics import Metrics
from serval_sglang.options import configure as configure_engine
from serval_testkit.chart import (
    CHART,
    KEYS,
    PRESETS,
    environment,
    named,
    of_kind,
    pod_specs,
    preset,
    rendered,
    rendered_text,
    selected,
)
from serval_testkit.custom_kinds import KINDS
from serval_testkit.kubernetes_api import check_against_api
from serval_testkit.metric_names import DASHBOARD_FILES, RULE_FILES, alerts, rules
from serval_testkit.operator_tools import OperatorTools, run_and_show
from serval_testkit.processes import free_port

# Kinds whose schemas are not part of the Kubernetes API.
CUSTOM_KINDS = KINDS | {"LeaderWorkerSet"}
EVERYTHING = (
    "--set", "ingress.enabled=true,ingress.host=llm.example.org,ingress.tlsSecret=tls",
    "--set", "gateway.autoscaling.enabled=true,gateway.autoscaling.targetInFlight=50",
    "--set", "httpRoute.enabled=true,httpRoute.parentRefs[0].name=gw",
    "--set", "model.download.enabled=true,model.download.revision=0123456789abcdef0123456789abcdef01234567",
    "--set", "keyDatabase.existingSecret=db,limits.existingSecret=redis",
    "--set", "limits.peers[0].podSelector.matchLabels.app=redis",
    "--set", "model.download.tokenSecret=hub,model.verify.enabled=true,model.verify.manifestConfigMap=pins",
)  # fmt: skip


def refusal(tools: OperatorTools, *settings: str, keys: bool = True) -> str:
    arguments = [part for setting in settings for part in ("--set", setting)]
    done = tools.run("helm", "template", "serval", CHART, *(KEYS if keys else ()), *arguments, check=False)
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize("name", PRESETS)
def test_helm_lints_every_preset(name: str, tools: OperatorTools) -> None:
    tools.run("helm", "lint", "--strict", CHART, "--values", CHART / name, *KEYS)


@pytest.mark.parametrize("name", PRESETS)
def test_kubernetes_accepts_every_preset(name: str, tools: OperatorTools, tmp_path: Path) -> None:
    extra = EVERYTHING if name == "values-2xh100.yaml" else ()
    manifests = [m for m in preset(tools, name, *extra) if m["kind"] not in CUSTOM_KINDS]
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(manifests))
    check_against_api(tools, path)


def test_api_check_finds_an_unknown_field(tools: OperatorTools, tmp_path: Path) -> None:
    service = named(preset(tools, "values-2xh100.yaml"), "Service", "serval")
    service["spec"]["prots"] = service["spec"].pop("ports")
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump(service))
    with pytest.raises(AssertionError, match="prots"):
        check_against_api(tools, path)


def test_values_and_schema_have_the_same_fields() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    compare(values, schema, "")


def compare(values: dict[str, Any], schema: dict[str, Any], where: str) -> None:
    """Check that values.yaml and schema have the same fields, level by level."""
    assert schema["additionalProperties"] is False, where
    assert set(values) == set(schema["properties"]) - {"global"}, where
    for name, value in values.items():
        described = schema["properties"][name]
        if described.get("properties") and name not in {"resources", "thresholds"}:
            compare(value, described, f"{where}.{name}")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("engine.gpus=3", "engine/gpus"),
        ("image.engine.tag=latest", "image/engine/tag"),
        ("engine.gpu=2", "gpu"),
        ("engine.cache.kind=ramdisk", "engine/cache/kind"),
        ("model.source=s3", "model/source"),
        ("gateway.settings.engine_url=x", "engine_url"),
        ("gateway.settings.limits_url=x", "limits_url"),
        ("gateway.settings.engine_api_key=x", "engine_api_key"),
        ("gateway.settings.key_pepper=x", "key_pepper"),
        ("gateway.settings.nonsense=1", "nonsense"),
        ("gateway.env[0].name=SERVAL_MODEL", "gateway/env/0/name"),
        ("engine.env[0].name=HOME", "engine/env/0/name"),
        ("engine.podLabels.serval/engine=1", "podLabels"),
        ("model.path=../../etc", "model/path"),
        ("fullnameOverride=Serval", "fullnameOverride"),
        ("limits.port=null", "missing property 'port'"),
        ("monitoring.prometheusRule.thresholds.availability=99.9", "thresholds/availability"),
        ("monitoring.prometheusRule.disabled={ServalNothing}", "disabled/0"),
        ("gateway.settings.metrics_port=8000", "metrics_port"),
        ("limits.port=0", "limits/port"),
        ("gateway.shutdownGraceSeconds=-1", "shutdownGraceSeconds"),
        ("replicas=0", "replicas"),
        ("auth.keys={short}", "auth/keys"),
        ("model.download.enabled=true", "revision"),
    ],
)
def test_schema_refuses_an_invalid_value(setting: str, message: str, tools: OperatorTools) -> None:
    assert message in refusal(tools, setting)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["engine.gpus=2", "engine.ep=4"], "engine.ep (4) must divide the number of ranks"),
        (["engine.nodes=3"], "engine.gpus times engine.nodes is 6"),
        (["engine.nodes=2", "engine.gpus=0", "engine.ep=1"], "an engine on CPUs runs on one machine"),
        (
            [
                "engine.nodes=2",
                "engine.cache.kind=emptyDir",
                "model.source=hostPath",
                "model.path=x",
                "model.hostPath.path=/m",
            ],
            "set gateway.affinity",
        ),
        (["engine.nodes=2"], "a LeaderWorkerSet makes no claims"),
        (["engine.cache.kind=hostPath"], "set engine.cache.hostPath.path"),
        (["gateway.autoscaling.keda.enabled=true"], "set gateway.autoscaling.enabled too"),
        (
            ["gateway.autoscaling.enabled=true", "gateway.autoscaling.keda.enabled=true"],
            "keda: set prometheusUrl",
        ),
        (
            ["gateway.autoscaling.enabled=true", "gateway.autoscaling.maxReplicas=1"],
            "maxReplicas (1) is below gateway.replicas (2)",
        ),
        (
            [
                "model.source=pvc",
                "model.path=x",
                "model.pvc.claimName=c",
                "model.pvc.singleNode=true",
                "replicas=2",
            ],
            "all engines have to run on one machine",
        ),
        (["auth.existingSecret=mine"], "set exactly one of auth.existingSecret"),
        (["model.source=pvc", "model.path=x"], "set model.pvc.claimName"),
        (["model.source=pvc", "model.pvc.claimName=x"], "model.path"),
        (["model.verify.enabled=true"], "model.verify"),
        (["ingress.enabled=true"], "ingress.host"),
    ],
)
def test_template_refuses_conflicting_values(settings: list[str], message: str, tools: OperatorTools) -> None:
    assert message in refusal(tools, *settings)


def test_template_requires_keys(tools: OperatorTools) -> None:
    assert "set exactly one of auth.existingSecret" in refusal(tools, keys=False)


@pytest.mark.parametrize("name", PRESETS)
def test_gateway_gets_only_settings_that_it_reads(name: str, tools: OperatorTools) -> None:
    manifests = preset(tools, name, "--set", "gateway.settings.max_choices=4")
    for deployment in of_kind(manifests, "Deployment"):
        variables = environment(deployment["spec"]["template"]["spec"])
        assert variables["SERVAL_MAX_CHOICES"] == "4"
        fields = {variable.removeprefix("SERVAL_").lower(): value for variable, value in variables.items()}
        assert set(fields) <= set(Settings.model_fields)
        Settings(**fields)


@pytest.mark.parametrize("name", PRESETS)
def test_selectors_find_pods_and_nothing_else(name: str, tools: OperatorTools) -> None:
    manifests = preset(tools, name)
    labels = {
        m["metadata"]["name"]: m["spec"]["template"]["metadata"]["labels"]
        for m in manifests
        if m["kind"] in {"Deployment", "StatefulSet"}
    }
    services = {m["metadata"]["name"]: m["spec"]["selector"] for m in of_kind(manifests, "Service")}
    policies = {m["metadata"]["name"]: m["spec"]["podSelector"] for m in of_kind(manifests, "NetworkPolicy")}
    budgets = {
        m["metadata"]["name"]: m["spec"]["selector"] for m in of_kind(manifests, "PodDisruptionBudget")
    }
    gateways = {pod for pod in labels if "-gateway" in pod}
    assert selected({"matchLabels": services["serval"]}, labels) == gateways
    assert selected({"matchLabels": services["serval-engine"]}, labels) == {"serval-engine"}
    assert selected(policies["serval-gateway"], labels) == gateways
    assert selected(policies["serval-engine"], labels) == {"serval-engine"}
    assert {name: selected(selector, labels) for name, selector in budgets.items()} == {
        n: {n} for n in labels
    }


@pytest.mark.parametrize("name", PRESETS)
def test_pods_run_without_privileges(name: str, tools: OperatorTools) -> None:
    extra = EVERYTHING if name == "values-2xh100.yaml" else ()
    for pod in pod_specs(preset(tools, name, *extra)).values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        # A Service named serval would set SERVAL_PORT to an address.
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"] + pod.get("initContainers", []):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"] is True
            assert container["resources"]["limits"]["memory"]
            assert not container["image"].endswith(":latest")


@pytest.mark.parametrize("name", PRESETS)
def test_probes_wait_for_a_slow_load_and_generate_nothing(name: str, tools: OperatorTools) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    values["engine"] |= yaml.safe_load((CHART / name).read_text()).get("engine", {})
    budget = values["engine"]["startupSeconds"]
    pods = pod_specs(preset(tools, name))
    for pod in pods.values():
        container = pod["containers"][0]
        if "startupProbe" in container:
            startup = container["startupProbe"]
            # A gateway listens at once; an engine only when it is loaded.
            if startup["httpGet"]["path"] == "/ready":
                assert startup["periodSeconds"] * startup["failureThreshold"] >= budget
            probes = [container[probe] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
            asked = {probe["httpGet"]["path"] for probe in probes if "httpGet" in probe}
            assert asked <= {"/ready", "/readyz", "/healthz"}
    for deployment in of_kind(preset(tools, name), "Deployment"):
        assert deployment["spec"]["progressDeadlineSeconds"] > budget


def test_readiness_survives_one_stall_of_the_engine(tools: OperatorTools) -> None:
    """All gateways ask the same engines: one answer later than `/readyz` waits must not empty the Service."""
    probe = pod_specs(rendered(tools))["serval-gateway"]["containers"][0]["readinessProbe"]
    stall_s = 2.0
    # A stall fails the probes that fall into it or into the wait for its answer.
    failed = 1 + (stall_s + probe["timeoutSeconds"]) // probe["periodSeconds"]
    assert failed < probe["failureThreshold"]
    # An only engine that drains is noticed within the preStop pause.
    assert probe["failureThreshold"] * probe["periodSeconds"] <= 10


@pytest.mark.parametrize("name", PRESETS)
def test_stop_leaves_time_to_drain(name: str, tools: OperatorTools) -> None:
    for pod_name, pod in pod_specs(preset(tools, name)).items():
        if "-gateway" in pod_name:
            pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
            grace = float(environment(pod)["SERVAL_SHUTDOWN_GRACE_S"])
            assert pod["terminationGracePeriodSeconds"] > pause + grace


def test_engine_arguments_are_those_of_the_command_line(tools: OperatorTools) -> None:
    parser = argparse.ArgumentParser()
    configure_engine(parser)
    for name in PRESETS:
        pod = pod_specs(preset(tools, name))["serval-engine"]
        command, *arguments = pod["containers"][0]["args"]
        assert command == "engine"
        given = parser.parse_args(arguments)
        limits = pod["containers"][0]["resources"]["limits"]
        assert given.tp == int(limits.get("nvidia.com/gpu", 1))
        assert given.device == ("cuda" if "nvidia.com/gpu" in limits else "cpu")
        assert given.tp % given.ep == 0


@pytest.mark.parametrize(
    ("name", "gpu_memory_gib", "more"),
    [
        ("values-2xh100.yaml", 79.6, []),
        ("values-8xh100.yaml", 79.6, []),
        ("values-1gpu-fp8.yaml", 140.4, ["--dtype", "fp8"]),
    ],
)
def test_presets_fit_their_gpus(
    name: str, gpu_memory_gib: float, more: list[str], tools: OperatorTools
) -> None:
    """`serval plan` accepts the preset and recommends its memory fraction."""
    arguments = pod_specs(preset(tools, name))["serval-engine"]["containers"][0]["args"]
    flags = dict(argument.removeprefix("--").split("=") for argument in arguments if "=" in argument)
    plan = subprocess.run(
        [
            sys.executable, "-m", "serval", "plan", f"--gpu-memory-gib={gpu_memory_gib}",
            f"--gpus={flags['tp']}", f"--tp={flags['tp']}", f"--ep={flags['ep']}",
            f"--context={flags['context-length']}",
            f"--chunked-prefill-size={flags['chunked-prefill-size']}", *more,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert plan.returncode == 0, plan.stdout + plan.stderr
    fraction = arguments[arguments.index("--mem-fraction-static") + 1]
    assert f"--mem-fraction-static {fraction}" in plan.stdout


@pytest.mark.parametrize("key", [None, "key-of-the-engine"], ids=["without a key", "with a key"])
async def test_liveness_of_the_engine_is_any_answer_over_http(tools: OperatorTools, key: str | None) -> None:
    """The kubelet's requests have no key: an engine that asks for one must not be restarted for its 401."""
    pod = pod_specs(preset(tools, "values-2xh100.yaml"))["serval-engine"]
    _, option, program = pod["containers"][0]["livenessProbe"]["exec"]["command"]
    port = free_port()
    command = [sys.executable, option, program.replace(":30000", f":{port}")]

    async def alive() -> bool:
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        return await process.wait() == 0

    async def model_info(_: web.Request) -> web.Response:
        return web.Response(status=200 if key is None else 401)

    app = web.Application()
    app.add_routes([web.get("/model_info", model_info)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    assert await alive()
    await runner.cleanup()
    assert not await alive()


@pytest.mark.parametrize("name", PRESETS)
def test_engine_and_gateways_have_one_key_from_a_secret(name: str, tools: OperatorTools) -> None:
    manifests = preset(tools, name)
    secret = named(manifests, "Secret", "serval-engine-key")
    assert len(base64.b64decode(secret["data"]["key"])) == 40
    for pod in pod_specs(manifests).values():
        entries = {entry["name"]: entry for entry in pod["containers"][0]["env"]}
        if "URL" not in entries:  # not the test's pod
            reference = entries["SERVAL_ENGINE_API_KEY"]["valueFrom"]["secretKeyRef"]
            assert reference == {"name": "serval-engine-key", "key": "key"}
    assert base64.b64decode(secret["data"]["key"]).decode() not in yaml.safe_dump_all(
        manifest for manifest in manifests if manifest is not secret
    )


def test_engine_key_of_the_operator_is_only_referenced(tools: OperatorTools) -> None:
    manifests = rendered(tools, "--set", "engine.keySecret=mine")
    assert not [m for m in of_kind(manifests, "Secret") if "engine-key" in m["metadata"]["name"]]
    engine = pod_specs(manifests)["serval-engine"]["containers"][0]
    (entry,) = [entry for entry in engine["env"] if entry["name"] == "SERVAL_ENGINE_API_KEY"]
    assert entry["valueFrom"]["secretKeyRef"]["name"] == "mine"


def test_engine_key_is_looked_up_before_one_is_made() -> None:
    """Helm asks the cluster on an upgrade; without a cluster, as here, it finds nothing."""
    template = (CHART / "templates/keys.yaml").read_text()
    assert 'lookup "v1" "Secret" .Release.Namespace $name' in template
    assert "{{ if $found }}{{ $found.data.key }}{{ else }}{{ randAlphaNum 40 | b64enc }}{{ end }}" in template


def test_metrics_of_gateways_are_for_prometheus_only(tools: OperatorTools) -> None:
    manifests = preset(tools, "values-2xh100.yaml", "--set", "networkPolicy.clients[0].podSelector.x=y")
    (port,) = named(manifests, "Service", "serval")["spec"]["ports"]
    assert port["targetPort"] == "http"
    pod = pod_specs(manifests)["serval-gateway"]
    ports = {port["name"]: port["containerPort"] for port in pod["containers"][0]["ports"]}
    assert ports["metrics"] == int(environment(pod)["SERVAL_METRICS_PORT"]) != ports["http"]
    clients, monitoring = named(manifests, "NetworkPolicy", "serval-gateway")["spec"]["ingress"]
    assert clients["ports"] == [{"port": ports["http"]}]
    assert not any("namespaceSelector" in peer for peer in clients["from"])
    assert monitoring["ports"] == [{"port": ports["metrics"]}]
    assert monitoring["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    ]
    nobody = named(
        rendered(tools, "--set", "networkPolicy.monitoring=null"), "NetworkPolicy", "serval-gateway"
    )
    assert [rule["ports"] for rule in nobody["spec"]["ingress"]] == [[{"port": 8000}]]


def test_only_gateways_and_prometheus_reach_the_engine(tools: OperatorTools) -> None:
    policy = named(preset(tools, "values-2xh100.yaml"), "NetworkPolicy", "serval-engine")
    (rule,) = policy["spec"]["ingress"]
    assert rule["ports"] == [{"port": 30000}]
    gateway, monitoring = rule["from"]
    assert gateway["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
    assert monitoring == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.parametrize("name", PRESETS)
def test_urls_of_the_databases_come_from_secrets_only(name: str, tools: OperatorTools) -> None:
    manifests = preset(tools, name, "--set", "keyDatabase.existingSecret=db,limits.existingSecret=redis")
    for deployment in of_kind(manifests, "Deployment"):
        entries = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
        secrets = {e["name"]: e["valueFrom"]["secretKeyRef"] for e in entries if "valueFrom" in e}
        assert secrets == {
            "SERVAL_KEY_DATABASE": {"name": "db", "key": "url"},
            "SERVAL_LIMITS_URL": {"name": "redis", "key": "url"},
            "SERVAL_ENGINE_API_KEY": {"name": "serval-engine-key", "key": "key"},
        }
    plain = [e["name"] for d in of_kind(preset(tools, name), "Deployment") for e in container_variables(d)]
    assert not {"SERVAL_KEY_DATABASE", "SERVAL_LIMITS_URL", "SERVAL_LIMITS_SHARE"} & set(plain)


def container_variables(deployment: dict[str, Any]) -> list[dict[str, Any]]:
    variables: list[dict[str, Any]] = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return variables


def test_gateways_reach_the_databases_and_nothing_else(tools: OperatorTools) -> None:
    def egress(*settings: str) -> list[dict[str, Any]]:
        arguments = [part for setting in settings for part in ("--set", setting)]
        policy = named(rendered(tools, *arguments), "NetworkPolicy", "serval-gateway")
        rules_: list[dict[str, Any]] = policy["spec"]["egress"]
        return rules_

    dns, engine = egress()
    assert {port["port"] for port in dns["ports"]} == {53}
    database, redis = egress(
        "keyDatabase.existingSecret=db",
        "keyDatabase.peers[0].ipBlock.cidr=10.1.0.0/16",
        "limits.existingSecret=redis",
        "limits.port=6380",
    )[2:]
    assert database == {"ports": [{"port": 5432}], "to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}
    assert redis == {"ports": [{"port": 6380}]}
    assert egress("networkPolicy.gatewayEgress[0].ports[0].port=443")[2:] == [{"ports": [{"port": 443}]}]
    assert engine["ports"] == [{"port": 30000}]


def test_inline_keys_become_a_secret_and_restart_the_pods(tools: OperatorTools) -> None:
    manifests = rendered(tools)
    secret = named(manifests, "Secret", "serval-keys")
    assert secret["stringData"] == {"keys": "sk-serval-chart-test"}
    assert rendered_text(tools, *KEYS).count("sk-serval-chart-test") == 1
    other = rendered(tools, "--set", "auth.keys={sk-serval-another}", keys=False)
    checksums = {
        deployment["spec"]["template"]["metadata"]["annotations"]["checksum/keys"]
        for deployment in of_kind(manifests + other, "Deployment")
    }
    assert len(checksums) == 2


def test_existing_secret_is_only_referenced(tools: OperatorTools) -> None:
    manifests = rendered(tools, "--set", "auth.existingSecret=mine", keys=False)
    assert [secret["metadata"]["name"] for secret in of_kind(manifests, "Secret")] == ["serval-engine-key"]
    assert all(
        {"name": "keys", "secret": {"secretName": "mine", "defaultMode": 0o440}} in pod["volumes"]
        for name, pod in pod_specs(manifests).items()
        if name != "serval-engine"
    )


def test_external_secret_creates_the_mounted_secret(tools: OperatorTools) -> None:
    settings = (
        "auth.externalSecret.enabled=true,auth.externalSecret.storeName=vault,auth.externalSecret.remoteKey=k"
    )
    manifests = rendered(tools, "--set", settings, keys=False)
    (external,) = of_kind(manifests, "ExternalSecret")
    mounted = pod_specs(manifests)["serval-gateway"]["volumes"][0]["secret"]["secretName"]
    assert external["spec"]["target"]["name"] == mounted
    assert external["spec"]["data"] == [{"secretKey": "keys", "remoteRef": {"key": "k"}}]


@pytest.mark.parametrize("source", ["pvc", "hostPath", "image"])
def test_checkpoint_is_mounted_read_only(source: str, tools: OperatorTools) -> None:
    place = {"pvc": "claimName=c", "hostPath": "path=/data", "image": "reference=r@sha256:1"}[source]
    settings = f"model.source={source},model.path=lite,model.{source}.{place}"
    for name, pod in pod_specs(rendered(tools, "--set", settings)).items():
        if name != "serval-test":
            mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
            assert mounts["model"] == {"name": "model", "mountPath": "/models", "readOnly": True}
            assert any(volume["name"] == "model" for volume in pod["volumes"])


def cache_of_engine(manifests: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """Volume and claim templates of the engine's compiled kernels."""
    (engine,) = of_kind(manifests, "StatefulSet")
    pod = engine["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    # The caches of SGLang, Triton, flashinfer and DeepGEMM are all below HOME.
    assert mounts[environment(pod)["HOME"]] == "cache"
    volumes = [volume for volume in pod["volumes"] if volume["name"] == "cache"]
    return (volumes[0] if volumes else None), engine["spec"].get("volumeClaimTemplates", [])


def test_compiled_kernels_outlive_the_pod_of_an_engine_on_gpus(tools: OperatorTools) -> None:
    for name in set(PRESETS) - {"values-cpu-demo.yaml"}:
        volume, (claim,) = cache_of_engine(preset(tools, name))
        assert volume is None
        assert claim["metadata"]["name"] == "cache"
        assert claim["spec"] == {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "20Gi"}},
        }


def test_compiled_kernels_are_where_the_operator_wants_them(tools: OperatorTools) -> None:
    _, (claim,) = cache_of_engine(rendered(tools, "--set", "engine.cache.storageClass=fast"))
    assert claim["spec"]["storageClassName"] == "fast"
    path = "engine.cache.kind=hostPath,engine.cache.hostPath.path=/var/lib/serval"
    volume, claims = cache_of_engine(rendered(tools, "--set", path))
    assert claims == []
    assert volume == {"name": "cache", "hostPath": {"path": "/var/lib/serval", "type": "Directory"}}
    volume, claims = cache_of_engine(preset(tools, "values-cpu-demo.yaml"))
    assert claims == []
    assert volume == {"name": "cache", "emptyDir": {"sizeLimit": "2Gi"}}


def alert_rules(manifests: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rules of the chart's PrometheusRule, by name."""
    (rule,) = of_kind(manifests, "PrometheusRule")
    return {r.get("alert") or r["record"]: r for group in rule["spec"]["groups"] for r in group["rules"]}


def test_rules_and_dashboards_are_those_of_deploy(tools: OperatorTools) -> None:
    """The rules differ only in the release that they are narrowed to, and in how long a start may take."""
    manifests = preset(tools, "values-2xh100.yaml")
    text = json.dumps(list(alert_rules(manifests).values()))
    for narrowed, general in (
        (r",namespace=\"default\",release=\"serval\"", ""),
        (r"{namespace=\"default\",release=\"serval\"}", ""),
        (r"namespace=\"default\"", r"namespace=~\".*\""),
        ("2100s", "35m"),
    ):
        assert narrowed in text
        text = text.replace(narrowed, general)
    plain = json.loads(text)
    for rule in plain:
        if rule["expr"].startswith("vector("):
            assert (rule["labels"].pop("namespace"), rule["labels"].pop("release")) == ("default", "serval")
            if not rule["labels"]:
                del rule["labels"]
    by_name = {rule.get("alert") or rule["record"]: rule for rule in rules()}
    assert {rule.get("alert") or rule["record"]: rule for rule in plain} == by_name
    data = named(manifests, "ConfigMap", "serval-dashboards")["data"]
    assert data == {path.name: path.read_text() for path in DASHBOARD_FILES}
    assert len(RULE_FILES) == len(list((CHART / "files/rules").glob("*.yml")))


def test_dashboards_link_to_the_runbooks_of_the_values(tools: OperatorTools) -> None:
    address = "https://wiki.example.org/runbooks"
    manifests = preset(
        tools, "values-2xh100.yaml", "--set", f"monitoring.prometheusRule.runbookBaseUrl={address}/"
    )
    overview = json.loads(named(manifests, "ConfigMap", "serval-dashboards")["data"]["serval-overview.json"])
    (variable,) = [one for one in overview["templating"]["list"] if one["name"] == "runbooks"]
    assert variable["query"] == address


def test_alerts_take_objectives_and_severities_from_values(tools: OperatorTools, tmp_path: Path) -> None:
    rule = "monitoring.prometheusRule"
    manifests = preset(
        tools, "values-2xh100.yaml", "--set", f"{rule}.thresholds.availability=0.995,{rule}.platform=false",
        "--set", f"{rule}.severities.ServalKvCacheFull=critical,{rule}.disabled={{ServalClientsGiveUp}}",
        "--set-string", f"{rule}.firstTokenSeconds=5.0", "--set", "engine.startupSeconds=3600",
    )  # fmt: skip
    found = alert_rules(manifests)
    assert found["serval:objective:availability"]["expr"] == "vector(0.995)"
    assert found["serval:objective:first_token_ratio"]["expr"] == "vector(0.95)"
    assert found["serval:objective:first_token_seconds"]["expr"] == "vector(5.0)"
    assert 'le="5.0"' in found["serval:first_token:slow_ratio_5m"]["expr"]
    assert "longer than 5.0 s" in found["ServalFirstTokenBudgetBurnFast"]["annotations"]["summary"]
    assert found["ServalKvCacheFull"]["labels"]["severity"] == "critical"
    assert not {"ServalClientsGiveUp", "ServalGpuFault", "ServalWatchdog"} & set(found)
    assert (found["ServalEngineDown"]["for"], found["ServalEngineNotReady"]["for"]) == ("3900s", "3900s")
    assert "offset 3900s" in found["ServalGatewayDown"]["expr"]
    (manifest,) = of_kind(manifests, "PrometheusRule")
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(manifest["spec"]))
    tools.run("promtool", "check", "rules", "--lint=all", "--lint-fatal", path)


def test_values_name_every_alert_and_threshold() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    described = schema["properties"]["monitoring"]["properties"]["prometheusRule"]["properties"]
    assert set(described["disabled"]["items"]["enum"]) == set(alerts())
    assert set(described["severities"]["propertyNames"]["enum"]) == set(alerts())
    thresholds = {
        rule["record"].split(":")[-1]
        for rule in rules()
        if rule["expr"].startswith("vector(") and "record" in rule
    }
    assert set(described["thresholds"]["properties"]) == thresholds - {"first_token_seconds"}
    page = Metrics().exposition(engine_up=True).decode()
    for bound in described["firstTokenSeconds"]["enum"]:
        assert f'serval_time_to_first_token_seconds_bucket{{le="{bound}"}}' in page


def test_rules_of_two_releases_are_told_apart(tools: OperatorTools) -> None:
    """Each release brings all rules, so each must read and record its own series only."""
    manifests = preset(tools, "values-2xh100.yaml", "--namespace", "other")
    for name, rule in alert_rules(manifests).items():
        for selector in re.findall(r"\{[^}]*\\?\}", rule["expr"]):
            if "serval-" in selector:
                assert 'namespace="other",release="serval"' in selector, name


def test_presets_need_no_prometheus_operator(tools: OperatorTools) -> None:
    arguments = ("--values", CHART / "values-2xh100.yaml")
    without = {manifest["kind"] for manifest in rendered(tools, *arguments)}
    assert not {"ServiceMonitor", "PrometheusRule"} & without
    forced = rendered(tools, *arguments, "--set", "monitoring.serviceMonitor.enabled=true")
    assert {"ServiceMonitor"} <= {manifest["kind"] for manifest in forced}


def test_settings_of_the_schema_are_those_of_the_gateway(tools: OperatorTools) -> None:
    """All but those that the chart sets itself, and secrets, which must not be in a manifest."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    allowed = set(schema["properties"]["gateway"]["properties"]["settings"]["propertyNames"]["enum"])
    given = environment(pod_specs(rendered(tools))["serval-gateway"])
    own = {name.removeprefix("SERVAL_").lower() for name in given}
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert "key_pepper" in secret
    assert allowed == set(Settings.model_fields) - own - secret - {
        "key_database",
        "limits_share",
        "usage_journal",
    }


@pytest.mark.parametrize(
    ("claim", "volume"),
    [
        ("", {"emptyDir": {"sizeLimit": "256Mi"}}),
        ("books", {"persistentVolumeClaim": {"claimName": "books"}}),
    ],
)
def test_gateway_with_a_key_database_has_a_usage_journal(
    tools: OperatorTools, claim: str, volume: dict[str, Any]
) -> None:
    settings = f"keyDatabase.existingSecret=db,gateway.usageJournal.claimName={claim}"
    pod = pod_specs(rendered(tools, "--set", settings))["serval-gateway"]
    folder = environment(pod)["SERVAL_USAGE_JOURNAL"]
    (container,) = pod["containers"]
    assert {"name": "usage", "mountPath": folder} in container["volumeMounts"]
    assert {"name": "usage", **volume} in pod["volumes"]
    assert "SERVAL_USAGE_JOURNAL" not in environment(pod_specs(rendered(tools))["serval-gateway"])


def test_gateway_takes_secrets_from_secrets(tools: OperatorTools) -> None:
    manifests = rendered(
        tools,
        "--set", "gateway.env[0].name=SERVAL_KEY_PEPPER,gateway.env[0].valueFrom.secretKeyRef.name=pepper",
        "--set", "gateway.env[0].valueFrom.secretKeyRef.key=pepper,gateway.envFrom[0].secretRef.name=more",
        "--set", "engine.envFrom[0].configMapRef.name=proxy,engine.resources.limits.rdma/ib=1",
        "--set", "gateway.serviceAccountName=sa,gateway.podLabels.team=a,engine.podLabels.team=b",
    )  # fmt: skip
    pods = pod_specs(manifests)
    gateway, engine = pods["serval-gateway"], pods["serval-engine"]
    pepper = {"name": "SERVAL_KEY_PEPPER", "valueFrom": {"secretKeyRef": {"name": "pepper", "key": "pepper"}}}
    assert pepper in gateway["containers"][0]["env"]
    assert gateway["containers"][0]["envFrom"] == [{"secretRef": {"name": "more"}}]
    assert engine["containers"][0]["envFrom"] == [{"configMapRef": {"name": "proxy"}}]
    assert engine["containers"][0]["resources"]["limits"]["rdma/ib"] == 1
    assert gateway["serviceAccountName"] == "sa"
    labels = named(manifests, "Deployment", "serval-gateway")["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "a"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--name-template", "team-alpha-prod-longcat-flash-lite-eu-west1"),
        ("--name-template", "a-name-of-fifty-three-characters-that-is-the-longest1"),
        ("--set", f"fullnameOverride={'x' * 45}"),
    ],
    ids=lambda arguments: arguments[1],
)
def test_names_leave_room_for_what_kubernetes_appends(
    arguments: tuple[str, str], tools: OperatorTools
) -> None:
    """A StatefulSet's pods have a label of its name, a dash and ten characters; labels have up to 63."""
    given = ("serval", *arguments) if arguments[0] == "--set" else arguments
    text = tools.run("helm", "template", *given, CHART, *KEYS).stdout
    for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader):
        assert len(manifest["metadata"]["name"]) <= 63
        if manifest["kind"] == "StatefulSet":
            assert len(manifest["metadata"]["name"]) + 11 <= 63


def test_budgets_of_a_drain_are_values(tools: OperatorTools) -> None:
    def most(manifests: list[dict[str, Any]]) -> dict[str, Any]:
        budgets = of_kind(manifests, "PodDisruptionBudget")
        return {budget["metadata"]["name"]: budget["spec"]["maxUnavailable"] for budget in budgets}

    # Both engines of the preset are on one machine, so its drain evicts both.
    two = preset(tools, "values-8xh100.yaml")
    assert most(two) == {"serval-engine": 2, "serval-gateway": 1}
    off = "engine.disruptionBudget.enabled=false,gateway.disruptionBudget.maxUnavailable=50%"
    assert most(rendered(tools, "--set", off)) == {"serval-gateway": "50%"}


def test_runbook_urls_have_the_base_of_the_operator(tools: OperatorTools) -> None:
    url = "https://wiki.example.org/serval/"
    manifests = preset(
        tools, "values-2xh100.yaml", "--set", f"monitoring.prometheusRule.runbookBaseUrl={url}"
    )
    (rule,) = of_kind(manifests, "PrometheusRule")
    annotations = [
        r["annotations"] for group in rule["spec"]["groups"] for r in group["rules"] if "alert" in r
    ]
    assert all(a["runbook_url"].startswith(url + "Serval") and "runbook" not in a for a in annotations)


def test_service_monitors_have_the_job_names_of_the_rules(tools: OperatorTools) -> None:
    manifests = preset(tools, "values-2xh100.yaml")
    for monitor in of_kind(manifests, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"]
        (service,) = [
            s for s in of_kind(manifests, "Service") if selector.items() <= s["metadata"]["labels"].items()
        ]
        component = selector["app.kubernetes.io/component"].removesuffix("-metrics")
        assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == f"serval-{component}"
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_streams_are_not_buffered_by_the_ingress(tools: OperatorTools) -> None:
    (ingress,) = of_kind(preset(tools, "values-2xh100.yaml", *EVERYTHING), "Ingress")
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    assert int(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"]) >= 600
    assert [path["path"] for path in ingress["spec"]["rules"][0]["http"]["paths"]] == ["/v1"]


def test_download_command_exists_in_the_engine_image(tools: OperatorTools) -> None:
    pod = pod_specs(preset(tools, "values-2xh100.yaml", *EVERYTHING))["serval-engine"]
    download, verify = pod["initContainers"]
    assert download["command"][2:5] == ["python", "-m", "huggingface_hub.cli.hf"]
    given = [argument.split("=")[0] for argument in download["args"][1:]]
    printed = run_and_show(
        [sys.executable, *download["command"][3:], "--help"], env={"COLUMNS": "200"}
    ).stdout
    assert all(option in printed for option in given)
    assert verify["args"][:2] == ["checkpoint", "verify-hash"]
    # Only the download may write to the volume.
    mounts = {c["name"]: c["volumeMounts"] for c in (download, verify, pod["containers"][0])}
    writers = [
        n for n, all_ in mounts.items() if any(m["name"] == "model" and not m.get("readOnly") for m in all_)
    ]
    assert writers == ["download"]
