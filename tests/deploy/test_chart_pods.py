"""Helm chart: what an operator sets of pods, for OpenShift, RDMA, proxies, sidecars; and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from serval_testkit.chart import CHART, KEYS, named, of_kind, pod_specs, rendered
from serval_testkit.kubernetes_api import check_against_api
from serval_testkit.operator_tools import OperatorTools

CLAIM = "model.source=pvc,model.path=lite,model.pvc.claimName=c"
# The same additions for both kinds of pods.
POD = {
    "volumes": [{"name": "certs", "configMap": {"name": "ca"}}],
    "volumeMounts": [{"name": "certs", "mountPath": "/etc/certs", "readOnly": True}],
    "initContainers": [{"name": "first", "image": "busybox:1.37", "command": ["true"]}],
    "sidecars": [{"name": "mesh", "image": "envoy:v1.35"}],
    "topologySpreadConstraints": [
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule",
        }
    ],
    "schedulerName": "volcano",
    "priorityClassName": "serving",
    "serviceAccountName": "serval",
    "podLabels": {"team": "a"},
    "podAnnotations": {"mesh": "on"},
}
OPENSHIFT = {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}
RDMA = {
    "hostNetwork": True,
    "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
    "resources": {"limits": {"rdma/ib": 1, "cpu": 16}},
    "env": [{"name": "NCCL_IB_HCA", "value": "mlx5"}],
}


@pytest.fixture
def everything(tools: OperatorTools, tmp_path: Path) -> list[dict[str, Any]]:
    """Manifests with all additions."""
    values = {
        **OPENSHIFT,
        "commonLabels": {"cost-center": "llm"},
        "extraObjects": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "{{ .Release.Name }}-extra"},
                "data": {"engine": '{{ include "serval.engineUrl" . }}'},
            }
        ],
        "gateway": POD,
        "engine": {**POD, **RDMA},
    }
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    return rendered(tools, "--values", path)


def test_kubernetes_accepts_every_addition(
    everything: list[dict[str, Any]], tools: OperatorTools, tmp_path: Path
) -> None:
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(everything))
    check_against_api(tools, path)


def test_both_pods_have_the_additions(everything: list[dict[str, Any]]) -> None:
    for kind, name in (("Deployment", "serval-gateway"), ("StatefulSet", "serval-engine")):
        template = named(everything, kind, name)["spec"]["template"]
        pod = template["spec"]
        assert template["metadata"]["labels"]["team"] == "a"
        assert template["metadata"]["annotations"]["mesh"] == "on"
        own, sidecar = pod["containers"]
        assert sidecar == POD["sidecars"][0]  # type: ignore[index]
        assert POD["volumeMounts"][0] in own["volumeMounts"]  # type: ignore[index]
        assert POD["volumes"][0] in pod["volumes"]  # type: ignore[index]
        assert pod["initContainers"] == POD["initContainers"]
        for field in ("schedulerName", "priorityClassName", "serviceAccountName"):
            assert pod[field] == POD[field]
        (constraint,) = pod["topologySpreadConstraints"]
        selector = constraint.pop("labelSelector")
        assert constraint == POD["topologySpreadConstraints"][0]  # type: ignore[index]
        assert selector["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_openshift_chooses_the_user(everything: list[dict[str, Any]], tools: OperatorTools) -> None:
    pods = pod_specs(everything)
    for pod in pods.values():
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & set(pod["securityContext"])
        assert pod["securityContext"]["runAsNonRoot"] is True
    # A user without a name: torch asks Python for it.
    assert {"name": "USER", "value": "serval"} in pods["serval-engine"]["containers"][0]["env"]
    fixed = pod_specs(rendered(tools))["serval-engine"]["securityContext"]
    assert (fixed["runAsUser"], fixed["fsGroup"]) == (10001, 10001)


def test_engine_may_pin_memory_for_rdma_and_nothing_else(everything: list[dict[str, Any]]) -> None:
    pod = pod_specs(everything)["serval-engine"]
    (container, *_) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"add": ["IPC_LOCK"], "drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    limits = container["resources"]["limits"]
    assert (limits["rdma/ib"], limits["nvidia.com/gpu"]) == (1, 2)
    # Names of the cluster are found from the machine's network too.
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert "hostNetwork" not in pod_specs(everything)["serval-gateway"]


def test_extra_objects_are_templates_and_common_labels_are_on_all(everything: list[dict[str, Any]]) -> None:
    extra = named(everything, "ConfigMap", "serval-extra")
    assert extra["data"] == {"engine": "http://serval-engine-0.serval-engine:30000"}
    for manifest in everything:
        if manifest is not extra:
            assert manifest["metadata"]["labels"]["cost-center"] == "llm", manifest["metadata"]["name"]


def test_pods_do_not_change_with_the_charts_version(tools: OperatorTools, tmp_path: Path) -> None:
    """A label that changes with each chart would restart every engine on each upgrade."""
    for manifest in rendered(tools):
        template = manifest["spec"].get("template") if "spec" in manifest else None
        if template:
            assert "helm.sh/chart" not in json.dumps(template)
            assert "app.kubernetes.io/managed-by" not in json.dumps(template)


def test_download_goes_through_a_proxy_or_mirror(tools: OperatorTools) -> None:
    settings = (
        f"{CLAIM},model.download.enabled=true,model.download.revision=0123456789abcdef0123456789abcdef01234567,"
        "model.download.env[0].name=HF_ENDPOINT,model.download.env[0].value=https://mirror:8443,"
        "model.download.envFrom[0].secretRef.name=proxy,networkPolicy.engineEgress[0].ports[0].port=8443"
    )
    manifests = rendered(tools, "--set", settings)
    (download,) = pod_specs(manifests)["serval-engine"]["initContainers"]
    assert {"name": "HF_ENDPOINT", "value": "https://mirror:8443"} in download["env"]
    assert download["envFrom"] == [{"secretRef": {"name": "proxy"}}]
    egress = named(manifests, "NetworkPolicy", "serval-engine")["spec"]["egress"]
    assert {"ports": [{"port": 8443}]} in egress


def test_own_container_fills_the_claim_before_the_files_are_verified(
    tools: OperatorTools, tmp_path: Path
) -> None:
    """As from S3: it may write to the volume `model`."""
    fetch = {"name": "s3", "image": "aws-cli:2", "volumeMounts": [{"name": "model", "mountPath": "/models"}]}
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump({"engine": {"initContainers": [fetch]}}))
    verify = "model.verify.enabled=true,model.verify.manifestConfigMap=pins"
    manifests = rendered(tools, "--values", path, "--set", f"{CLAIM},{verify}")
    first, second = pod_specs(manifests)["serval-engine"]["initContainers"]
    assert first == fetch
    assert second["name"] == "verify"


def test_metrics_have_the_label_that_the_usual_stack_selects(tools: OperatorTools) -> None:
    manifests = rendered(
        tools, "--values", CHART / "values-2xh100.yaml", "--api-versions", "monitoring.coreos.com/v1"
    )
    selected = of_kind(manifests, "ServiceMonitor") + of_kind(manifests, "PrometheusRule")
    assert len(selected) == 3
    assert all(m["metadata"]["labels"]["release"] == "kube-prometheus-stack" for m in selected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("gateway.tokenizer.source=download", "the demo model's tokenizer is in the gateway's image"),
        (f"{CLAIM},gateway.tokenizer.source=download", "set model.download.revision"),
        (f"{CLAIM},gateway.tokenizer.source=pvc", "set gateway.tokenizer.pvc.claimName"),
        (f"{CLAIM},gateway.tokenizer.source=image", "set gateway.tokenizer.image.reference"),
        (f"{CLAIM},gateway.tokenizer.source=gatewayImage", "the folder in your image, from the root"),
        (f"{CLAIM},gateway.tokenizer.source=configMap", "gateway/tokenizer/source"),
        ("gateway.tokenizer.path=../etc", "gateway/tokenizer/path"),
        (
            f"{CLAIM},model.pvc.create.enabled=true,model.pvc.create.accessModes={{ReadWriteOnce}}",
            "give gateways their tokenizer with gateway.tokenizer, or set model.pvc.singleNode",
        ),
        (
            f"{CLAIM},model.pvc.create.enabled=true,model.pvc.create.accessModes={{ReadWriteOnce}},replicas=2",
            "and there are 2 engine pods",
        ),
        (
            f"{CLAIM},model.pvc.create.enabled=true,model.pvc.create.accessModes={{ReadWriteOncePod}},"
            "model.pvc.singleNode=true",
            "only one pod can mount c",
        ),
        ("model.pvc.create.accessModes={Any}", "model/pvc/create/accessModes"),
        ("engine.autoscaling.enabled=true", "set engine.autoscaling.prometheusUrl"),
        (
            "engine.autoscaling.enabled=true,engine.autoscaling.prometheusUrl=http://p,replicas=5",
            "engine.autoscaling.maxReplicas (4) is below replicas (5)",
        ),
        (
            "engine.autoscaling.enabled=true,engine.autoscaling.prometheusUrl=http://p,gateway.perEngine=true",
            "gateways of each engine cannot follow",
        ),
        ("engine.hostNetwork=true,replicas=2", "two engines on one machine would listen on the same port"),
        ("inferencePool.enabled=true", "set inferencePool.endpointPicker.name"),
        ("engine.env[0].name=USER", "engine/env/0/name"),
        ("model.download.env[0].name=HOME", "model/download/env/0/name"),
        ("commonLabels.app\\.kubernetes\\.io/name=x", "invalid propertyName 'app.kubernetes.io/name'"),
        ("gateway.volumes[0].configMap.name=x", "gateway/volumes/0"),
        ("gateway.autoscaling.maxReplicas=0", "gateway/autoscaling/maxReplicas"),
    ],
)
def test_mistakes_are_refused_with_the_reason(settings: str, message: str, tools: OperatorTools) -> None:
    done = tools.run("helm", "template", "serval", CHART, *KEYS, "--set", settings, check=False)
    assert done.returncode != 0
    assert message in done.stderr
