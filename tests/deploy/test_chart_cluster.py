"""Helm chart on a cluster: engines over several machines, autoscaling by Prometheus, custom kinds."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from serval_sglang.options import configure as configure_engine
from serval_testkit.chart import named, of_kind, pod_specs, preset, rendered, selected
from serval_testkit.custom_kinds import KINDS, check_custom_kinds
from serval_testkit.kubernetes_api import check_against_api
from serval_testkit.metric_names import metrics_of, scraped_metrics_needed
from serval_testkit.operator_tools import OperatorTools, ToolsMissingError

TWO_MACHINES = (
    "--set", "engine.nodes=2,engine.gpus=4,engine.ep=8",
    "--set", "engine.cache.kind=hostPath,engine.cache.hostPath.path=/var/lib/serval",
)  # fmt: skip
KEDA = (
    "--set", "gateway.autoscaling.enabled=true,gateway.autoscaling.targetInFlight=50",
    "--set", "gateway.autoscaling.keda.enabled=true",
    "--set", "gateway.autoscaling.keda.prometheusUrl=http://prometheus.monitoring:9090",
)  # fmt: skip
OTHERS = (
    "--set", "httpRoute.enabled=true,httpRoute.parentRefs[0].name=gw,httpRoute.hostnames[0]=llm.example.org",
)  # fmt: skip
EXTERNAL_SECRET = (
    "--set", "auth.externalSecret.enabled=true,auth.externalSecret.storeName=vault",
    "--set", "auth.externalSecret.remoteKey=k",
)  # fmt: skip


@pytest.fixture
def two_machines(tools: OperatorTools) -> list[dict[str, Any]]:
    return preset(tools, "values-2xh100.yaml", *TWO_MACHINES)


def test_leader_and_worker_pods_are_valid_for_kubernetes(
    two_machines: list[dict[str, Any]], tools: OperatorTools, tmp_path: Path
) -> None:
    (group,) = of_kind(two_machines, "LeaderWorkerSet")
    parts = group["spec"]["leaderWorkerTemplate"]
    pods = [
        {"apiVersion": "v1", "kind": "Pod", **parts[part], "metadata": {"name": part.lower()}}
        for part in ("leaderTemplate", "workerTemplate")
    ]
    path = tmp_path / "pods.yaml"
    path.write_text(yaml.safe_dump_all(pods))
    check_against_api(tools, path)


def test_group_is_replaced_as_a_whole_without_spare_gpus(two_machines: list[dict[str, Any]]) -> None:
    (group,) = of_kind(two_machines, "LeaderWorkerSet")
    assert of_kind(two_machines, "StatefulSet") == []
    spec = group["spec"]
    # All fields of the API of LeaderWorkerSet v1 at this level.
    assert set(spec) == {"replicas", "rolloutStrategy", "leaderWorkerTemplate"}
    assert spec["rolloutStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdateConfiguration": {"maxUnavailable": 1, "maxSurge": 0},
    }
    parts = spec["leaderWorkerTemplate"]
    assert set(parts) == {"size", "restartPolicy", "leaderTemplate", "workerTemplate"}
    assert (parts["size"], parts["restartPolicy"]) == (2, "RecreateGroupOnPodRestart")


def test_ranks_of_all_machines_find_one_another(two_machines: list[dict[str, Any]]) -> None:
    pods = pod_specs(two_machines)
    parser = argparse.ArgumentParser()
    configure_engine(parser)
    for name in ("serval-engine", "serval-engine-worker"):
        container = pods[name]["containers"][0]
        given = parser.parse_args(container["args"][1:])
        assert (given.tp, given.ep) == (8, 8)
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 4
        assert given.sglang_flags[:3] == [
            "--nnodes=$(LWS_GROUP_SIZE)",
            "--node-rank=$(LWS_WORKER_INDEX)",
            "--dist-init-addr=$(LWS_LEADER_ADDRESS):20000",
        ]


def test_service_selects_only_the_first_machine(two_machines: list[dict[str, Any]]) -> None:
    (group,) = of_kind(two_machines, "LeaderWorkerSet")
    parts = group["spec"]["leaderWorkerTemplate"]
    labels = {part: parts[part]["metadata"]["labels"] for part in ("leaderTemplate", "workerTemplate")}
    service = named(two_machines, "Service", "serval-engine")
    assert selected({"matchLabels": service["spec"]["selector"]}, labels) == {"leaderTemplate"}
    # LeaderWorkerSet uses the existing Service of its name; ranks must be found before they are ready.
    assert service["metadata"]["name"] == group["metadata"]["name"]
    assert service["spec"]["publishNotReadyAddresses"] is True
    # Further machines have no /ready; SGLang answers /health there, always with 200.
    worker = pod_specs(two_machines)["serval-engine-worker"]["containers"][0]
    probes = {name: probe for name, probe in worker.items() if name.endswith("Probe")}
    assert {probe["httpGet"]["path"] for probe in probes.values()} == {"/health"}
    assert set(probes) == {"startupProbe", "readinessProbe"}


def test_machines_of_an_engine_reach_one_another(two_machines: list[dict[str, Any]]) -> None:
    (group,) = of_kind(two_machines, "LeaderWorkerSet")
    parts = group["spec"]["leaderWorkerTemplate"]
    labels = {part: parts[part]["metadata"]["labels"] for part in ("leaderTemplate", "workerTemplate")}
    policy = named(two_machines, "NetworkPolicy", "serval-engine")["spec"]
    budget = named(two_machines, "PodDisruptionBudget", "serval-engine")["spec"]
    between = [rule for rule in policy["ingress"] if "ports" not in rule]
    out = [rule for rule in policy["egress"] if "ports" not in rule]
    for selector in (
        policy["podSelector"],
        budget["selector"],
        between[0]["from"][0]["podSelector"],
        out[0]["to"][0]["podSelector"],
    ):
        assert selected(selector, labels) == set(labels)


def test_keda_replaces_the_autoscaler(tools: OperatorTools) -> None:
    manifests = preset(tools, "values-8xh100.yaml", *KEDA)
    assert of_kind(manifests, "HorizontalPodAutoscaler") == []
    scaled = of_kind(manifests, "ScaledObject")
    deployments = {deployment["metadata"]["name"] for deployment in of_kind(manifests, "Deployment")}
    assert {each["spec"]["scaleTargetRef"]["name"] for each in scaled} == deployments
    for each in scaled:
        spec = each["spec"]
        assert spec["minReplicaCount"] >= 1
        prometheus, cpu = spec["triggers"]
        assert cpu["type"] == "cpu"
        assert metrics_of(prometheus["metadata"]["query"]) == {"serval_requests_in_flight"}
        assert f'pod=~"{each["metadata"]["name"]}-.*"' in prometheus["metadata"]["query"]
    assert "serval_requests_in_flight" in scraped_metrics_needed()


def checked_or_skipped(tools: OperatorTools, manifests: list[dict[str, Any]]) -> set[str]:
    try:
        return check_custom_kinds(tools, manifests)
    except ToolsMissingError as error:
        pytest.skip(f"the schemas of other projects need node and npm with its registry: {error}")


def test_custom_kinds_are_valid_for_their_projects(tools: OperatorTools) -> None:
    manifests = preset(tools, "values-2xh100.yaml", *OTHERS, *KEDA)
    manifests += rendered(tools, *EXTERNAL_SECRET, keys=False)
    assert checked_or_skipped(tools, manifests) == KINDS


def test_custom_kinds_check_finds_a_wrong_type(tools: OperatorTools) -> None:
    (scaled,) = of_kind(preset(tools, "values-2xh100.yaml", *KEDA), "ScaledObject")
    scaled["spec"]["maxReplicaCount"] = "four"
    with pytest.raises(AssertionError, match="maxReplicaCount"):
        checked_or_skipped(tools, [scaled])
