"""Helm chart: gateways over all engines, the earlier layout, their tokenizer, their scaling."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from serval.chat import load_chat
from serval.engine.discovery import expand, is_single
from serval.engine.fleet import POLL_S
from serval.telemetry.metrics import Metrics
from serval_testkit.chart import PRESETS, environment, named, of_kind, pod_specs, preset, rendered, selected
from serval_testkit.custom_kinds import KINDS, check_custom_kinds
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.metric_names import metrics_of, scraped_metrics_needed
from serval_testkit.operator_tools import OperatorTools, ToolsMissingError, run_and_show
from serval_testkit.stand_in_hub import stand_in_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CLAIM = "model.source=pvc,model.path=lite,model.pvc.claimName=c"
ENGINE_SCALING = (
    "--set", "engine.autoscaling.enabled=true,engine.autoscaling.maxReplicas=5,replicas=2",
    "--set", "engine.autoscaling.prometheusUrl=http://prometheus.monitoring:9090",
    "--set", "engine.autoscaling.authentication.name=prometheus",
)  # fmt: skip
POOL = ("--set", "inferencePool.enabled=true,inferencePool.endpointPicker.name=picker")


def engine_urls(manifests: list[dict[str, Any]]) -> dict[str, str]:
    """Setting SERVAL_ENGINE_URL of each Deployment of gateways."""
    return {
        d["metadata"]["name"]: environment(d["spec"]["template"]["spec"])["SERVAL_ENGINE_URL"]
        for d in of_kind(manifests, "Deployment")
    }


@pytest.mark.parametrize("name", PRESETS)
def test_gateways_use_all_engines(name: str, tools: OperatorTools) -> None:
    manifests = preset(tools, name)
    (engine,) = of_kind(manifests, "StatefulSet")
    (deployment,) = of_kind(manifests, "Deployment")
    assert deployment["metadata"]["name"] == "serval-gateway"
    url = engine_urls(manifests)["serval-gateway"]
    number = engine["spec"]["replicas"]
    assert expand(url) == [f"http://serval-engine-{i}.serval-engine:30000" for i in range(number)]
    # One engine is used as a gateway uses any single URL.
    assert is_single(url) is (number == 1)
    headless = named(manifests, "Service", engine["spec"]["serviceName"])
    assert (headless["metadata"]["name"], headless["spec"]["clusterIP"]) == ("serval-engine", "None")


def test_engines_of_several_machines_are_found_by_their_first(tools: OperatorTools) -> None:
    machines = "replicas=3,engine.nodes=2,engine.cache.kind=emptyDir"
    manifests = preset(tools, "values-2xh100.yaml", "--set", machines)
    assert engine_urls(manifests) == {"serval-gateway": "http://serval-engine-{0..2}.serval-engine:30000"}


def test_earlier_layout_has_gateways_of_each_engine(tools: OperatorTools) -> None:
    manifests = preset(tools, "values-8xh100.yaml", "--set", "gateway.perEngine=true")
    assert engine_urls(manifests) == {
        f"serval-gateway-{i}": f"http://serval-engine-{i}.serval-engine:30000" for i in (0, 1)
    }
    for kind in ("HorizontalPodAutoscaler", "PodDisruptionBudget"):
        names = {manifest["metadata"]["name"] for manifest in of_kind(manifests, kind)}
        assert names - {"serval-engine"} == set(engine_urls(manifests)), kind


def test_pods_of_the_two_layouts_are_told_apart(tools: OperatorTools) -> None:
    """Both run during an upgrade: one Service and policy have all, a Deployment or budget only its own."""
    both = {
        layout: preset(tools, "values-8xh100.yaml", "--set", f"gateway.perEngine={layout}")
        for layout in ("true", "false")
    }
    deployments = [d for manifests in both.values() for d in of_kind(manifests, "Deployment")]
    labels = {d["metadata"]["name"]: d["spec"]["template"]["metadata"]["labels"] for d in deployments}
    assert len(labels) == 3
    for deployment in deployments:
        assert selected(deployment["spec"]["selector"], labels) == {deployment["metadata"]["name"]}
        (constraint,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert constraint["labelSelector"] == deployment["spec"]["selector"]
    for manifests in both.values():
        for budget in of_kind(manifests, "PodDisruptionBudget"):
            name = budget["metadata"]["name"]
            assert selected(budget["spec"]["selector"], labels) == ({name} if "-gateway" in name else set())
        service = named(manifests, "Service", "serval")["spec"]["selector"]
        policy = named(manifests, "NetworkPolicy", "serval-gateway")["spec"]["podSelector"]
        assert selected({"matchLabels": service}, labels) == selected(policy, labels) == set(labels)


def test_scrapes_are_labelled_with_release_and_engine(tools: OperatorTools) -> None:
    """A gateway over all engines has no label `engine`, one of the earlier layout the number of its own."""
    for layout, engines in (("true", ["0", "1"]), ("false", [None])):
        manifests = preset(tools, "values-8xh100.yaml", "--set", f"gateway.perEngine={layout}")
        engine_of: dict[str, dict[str, Any]] = {}
        for monitor in of_kind(manifests, "ServiceMonitor"):
            relabelings = {
                rule["targetLabel"]: rule for rule in monitor["spec"]["endpoints"][0]["relabelings"]
            }
            assert relabelings["release"]["replacement"] == "serval"
            engine_of[monitor["metadata"]["name"]] = relabelings["engine"]
        assert engine_of["serval-gateway"]["sourceLabels"] == ["__meta_kubernetes_pod_label_serval_engine"]
        labels = [d["spec"]["template"]["metadata"]["labels"] for d in of_kind(manifests, "Deployment")]
        assert [label.get("serval/engine") for label in labels] == engines
        assert engine_of["serval-engine"]["sourceLabels"] == ["__meta_kubernetes_pod_name"]
        found = re.fullmatch(engine_of["serval-engine"]["regex"], "serval-engine-1")
        assert found is not None
        assert found[1] == "1"


@pytest.mark.parametrize(
    ("settings", "gateways"),
    [
        ("replicas=3,gateway.replicas=2", 2),
        ("replicas=3,gateway.replicas=1,gateway.perEngine=true", 3),
        ("replicas=2,gateway.autoscaling.enabled=true,gateway.autoscaling.maxReplicas=6", 6),
    ],
)
def test_shares_of_all_gateways_stay_within_the_limit(
    settings: str, gateways: int, tools: OperatorTools
) -> None:
    manifests = rendered(tools, "--set", f"limits.existingSecret=redis,{settings}")
    (share,) = {
        float(environment(d["spec"]["template"]["spec"])["SERVAL_LIMITS_SHARE"])
        for d in of_kind(manifests, "Deployment")
    }
    assert 1 - 0.01 < share * gateways <= 1


def test_autoscaled_gateways_have_no_fixed_replicas(tools: OperatorTools) -> None:
    manifests = preset(tools, "values-8xh100.yaml")
    assert all("replicas" not in deployment["spec"] for deployment in of_kind(manifests, "Deployment"))
    targets = {hpa["spec"]["scaleTargetRef"]["name"] for hpa in of_kind(manifests, "HorizontalPodAutoscaler")}
    assert targets == {deployment["metadata"]["name"] for deployment in of_kind(manifests, "Deployment")}


# ---- tokenizer


@pytest.mark.parametrize(
    ("settings", "folder", "volume"),
    [
        ("source=pvc,gateway.tokenizer.pvc.claimName=small,gateway.tokenizer.path=lite", "/tokenizer/lite",
         {"persistentVolumeClaim": {"claimName": "small", "readOnly": True}}),
        ("source=image,gateway.tokenizer.image.reference=r@sha256:1", "/tokenizer",
         {"image": {"reference": "r@sha256:1", "pullPolicy": "IfNotPresent"}}),
        (f"source=download,model.download.revision={COMMIT}", "/tokenizer",
         {"emptyDir": {"sizeLimit": "256Mi"}}),
        ("source=gatewayImage,gateway.tokenizer.path=/opt/lite", "/opt/lite", None),
    ],
    ids=["claim", "image", "download", "gateway's image"],
)  # fmt: skip
def test_gateways_leave_the_checkpoint_to_the_engines(
    settings: str, folder: str, volume: dict[str, Any] | None, tools: OperatorTools
) -> None:
    pods = pod_specs(rendered(tools, "--set", f"{CLAIM},gateway.tokenizer.{settings}"))
    gateway = pods["serval-gateway"]
    assert environment(gateway)["SERVAL_MODEL"] == folder
    volumes = {each.pop("name"): each for each in gateway["volumes"]}
    assert "model" not in volumes
    assert "affinity" not in gateway
    assert volumes.get("tokenizer") == volume
    mounts = {mount["name"]: mount for mount in gateway["containers"][0]["volumeMounts"]}
    assert ("tokenizer" in mounts) is (volume is not None)
    if volume:
        assert mounts["tokenizer"] == {"name": "tokenizer", "mountPath": "/tokenizer", "readOnly": True}
    assert {v["name"] for v in pods["serval-engine"]["volumes"]} >= {"model"}


def test_download_of_the_tokenizer_is_all_that_a_gateway_reads(tools: OperatorTools, tmp_path: Path) -> None:
    """The container's own command, with the Hub's stand-in as the mirror that the values name."""
    with stand_in_hub(DEMO_CHECKPOINT, COMMIT) as hub:
        settings = (
            f"{CLAIM},gateway.tokenizer.source=download,model.download.revision={COMMIT},"
            f"model.download.env[0].name=HF_ENDPOINT,model.download.env[0].value={hub}"
        )
        manifests = rendered(tools, "--set", settings)
        (download,) = pod_specs(manifests)["serval-gateway"]["initContainers"]
        folder = tmp_path / "tokenizer"
        arguments = [argument.replace("=/tokenizer", f"={folder}") for argument in download["args"]]
        environment_ = {entry["name"]: entry["value"] for entry in download["env"]} | {"HOME": str(tmp_path)}
        run_and_show([sys.executable, *download["command"][1:], *arguments], env=environment_)
    assert load_chat(folder).files == load_chat(DEMO_CHECKPOINT).files
    fetched = {path.name for path in folder.iterdir() if path.is_file()}
    # The checkpoint has more: weights, which only engines read.
    assert not [name for name in fetched if name.endswith(".safetensors")]
    assert list(DEMO_CHECKPOINT.glob("*.safetensors"))
    egress = named(manifests, "NetworkPolicy", "serval-gateway")["spec"]["egress"]
    assert {"ports": [{"port": 443}]} in egress


def test_gateways_follow_a_claim_of_one_machine(tools: OperatorTools) -> None:
    for single in (True, False):
        manifests = rendered(tools, "--set", f"{CLAIM},model.pvc.singleNode={str(single).lower()}")
        assert ("affinity" in pod_specs(manifests)["serval-gateway"]) is single


def test_claim_is_made_and_outlives_the_release(tools: OperatorTools) -> None:
    settings = (
        "model.source=pvc,model.path=lite,model.pvc.create.enabled=true,model.pvc.create.storageClass=nfs"
    )
    manifests = rendered(tools, "--set", settings)
    (claim,) = of_kind(manifests, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"] == {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": "nfs",
        "resources": {"requests": {"storage": "200Gi"}},
    }
    volumes = [v for v in pod_specs(manifests)["serval-engine"]["volumes"] if v["name"] == "model"]
    assert volumes[0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"] == "serval-model"


# ---- scaling of engines


def test_engines_are_scaled_by_what_waits_for_them(tools: OperatorTools) -> None:
    manifests = preset(tools, "values-2xh100.yaml", "--namespace", "llm", *ENGINE_SCALING)
    (scaled,) = of_kind(manifests, "ScaledObject")
    (engine,) = of_kind(manifests, "StatefulSet")
    spec = scaled["spec"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": engine["apiVersion"], "kind": "StatefulSet", "name": engine["metadata"]["name"],
    }  # fmt: skip
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (2, 5)
    # KEDA owns the number; without a cluster there is none to keep. A cache waits for its engine.
    assert "replicas" not in engine["spec"]
    assert engine["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"
    assert engine_urls(manifests) == {"serval-gateway": "http://serval-engine-{0..4}.serval-engine:30000"}
    page = Metrics()
    page.places.place_waiting("serval-engine-0", 1.0)
    exported = page.exposition(engine_up=True).decode()
    for trigger in spec["triggers"]:
        assert trigger["authenticationRef"] == {"name": "prometheus"}
        query = trigger["metadata"]["query"]
        selectors = re.findall(r"\{[^}]*\}", query)
        assert selectors
        assert set(selectors) == {'{namespace="llm",release="serval"}'}
        for metric in metrics_of(query):
            # The engine's own metrics are scraped by the same label.
            assert f"\n{metric}{{" in exported or metric in scraped_metrics_needed(), metric
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    # Bounds of the Kubernetes API.
    assert all(rule["policies"][0]["periodSeconds"] <= 1800 for rule in behavior.values())
    assert all(rule["stabilizationWindowSeconds"] <= 3600 for rule in behavior.values())


def test_engines_over_several_machines_are_scaled_as_groups(tools: OperatorTools) -> None:
    machines = ("--set", "engine.nodes=2,engine.cache.kind=emptyDir")
    manifests = preset(tools, "values-2xh100.yaml", *machines, *ENGINE_SCALING)
    (scaled,) = of_kind(manifests, "ScaledObject")
    (group,) = of_kind(manifests, "LeaderWorkerSet")
    target = scaled["spec"]["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"]) == (group["apiVersion"], group["kind"])
    assert "replicas" not in group["spec"]


def test_engines_have_a_fixed_number_and_are_replaced_one_at_a_time(tools: OperatorTools) -> None:
    manifests = preset(tools, "values-8xh100.yaml")
    (engine,) = of_kind(manifests, "StatefulSet")
    assert engine["spec"]["replicas"] == 2
    assert engine["spec"]["updateStrategy"] == {"type": "RollingUpdate"}
    # The gateways have seen the new one by then.
    assert engine["spec"]["minReadySeconds"] > POLL_S
    assert of_kind(manifests, "ScaledObject") == []


def test_inference_pool_has_the_gateways(tools: OperatorTools) -> None:
    manifests = preset(tools, "values-8xh100.yaml", *POOL)
    (pool,) = of_kind(manifests, "InferencePool")
    (deployment,) = of_kind(manifests, "Deployment")
    template = deployment["spec"]["template"]
    assert selected(pool["spec"]["selector"], {"gateway": template["metadata"]["labels"]}) == {"gateway"}
    (port,) = pool["spec"]["targetPorts"]
    ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
    assert port == {"number": ports["http"]}
    assert pool["spec"]["endpointPickerRef"] == {
        "name": "picker", "port": {"number": 9002}, "failureMode": "FailOpen",
    }  # fmt: skip
    assert of_kind(preset(tools, "values-8xh100.yaml"), "InferencePool") == []


def test_scaled_object_of_engines_is_valid_for_keda(tools: OperatorTools) -> None:
    manifests = of_kind(preset(tools, "values-2xh100.yaml", *ENGINE_SCALING), "ScaledObject")
    try:
        assert check_custom_kinds(tools, json.loads(json.dumps(manifests))) <= KINDS
    except ToolsMissingError as error:
        pytest.skip(f"the schemas of other projects need node and npm with its registry: {error}")
