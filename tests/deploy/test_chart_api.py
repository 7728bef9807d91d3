"""Helm and the chart at an API server's stand-in: install, upgrade, roll back, scale, change the layout.

The stand-in keeps objects as server-side apply does and refuses what the API refuses of names, labels and
immutable fields; it runs no controller and no pod. test_chart_upgrade.py has `--reuse-values`.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from serval_testkit.chart import CHART, KEYS, selected
from serval_testkit.kubernetes_api import check_against_api
from serval_testkit.kubernetes_discovery import KEDA, OPERATOR
from serval_testkit.operator_tools import ROOT, OperatorTools
from serval_testkit.stand_in_kubernetes import StandInKubernetes, stand_in_kubernetes

AUTOSCALING = "gateway.autoscaling.enabled=true"
NO_AUTOSCALING = "gateway.autoscaling.enabled=false"
KEPT = "--reset-then-reuse-values"


@dataclass
class Cluster:
    """A stand-in with one release, and Helm."""

    tools: OperatorTools
    api: StandInKubernetes
    home: Path
    release: str = "serval"

    def helm(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run Helm at the stand-in."""
        environment = {"HOME": str(self.home), "HELM_KUBEAPISERVER": self.api.url}
        return self.tools.run("helm", *arguments, check=check, env=environment)

    def install(self, *arguments: str | Path, chart: Path = CHART) -> None:
        """Install a chart; its pods become ready."""
        self.helm("install", self.release, chart, *KEYS, *arguments)
        self.api.settle()

    def upgrade(self, *settings: str) -> None:
        """Upgrade to today's chart with the values of before and some settings; pods become ready."""
        self.helm("upgrade", self.release, CHART, KEPT, *sets(*settings))
        self.api.settle()

    def refusal(self, *settings: str) -> str:
        """Return why an upgrade is refused."""
        done = self.helm("upgrade", self.release, CHART, KEPT, *sets(*settings), check=False)
        assert done.returncode != 0
        return done.stderr

    @property
    def gateways(self) -> dict[str, int]:
        """Number of pods of each Deployment."""
        return self.api.replicas("Deployment")


def sets(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


@pytest.fixture
def cluster(tools: OperatorTools, tmp_path: Path) -> Iterator[Cluster]:
    with stand_in_kubernetes(OPERATOR, KEDA) as api:
        yield Cluster(tools, api, tmp_path)


def test_preset_is_installed_upgraded_rolled_back_and_removed(
    cluster: Cluster, tools: OperatorTools, tmp_path: Path
) -> None:
    cluster.install("--values", CHART / "values-8xh100.yaml", "--set", "model.pvc.create.enabled=true")
    key = cluster.api.all_of("Secret")["serval-engine-key"]["data"]["key"]
    assert set(cluster.api.all_of("ServiceMonitor")) == {"serval-gateway", "serval-engine"}
    before = cluster.api.all_of("StatefulSet")["serval-engine"]
    cluster.upgrade("gateway.settings.max_choices=4")
    # Engines take minutes to start: a change of gateways is none of theirs.
    assert cluster.api.all_of("StatefulSet")["serval-engine"] == before
    assert cluster.api.all_of("Secret")["serval-engine-key"]["data"]["key"] == key
    objects = [m.value for k, m in cluster.api.objects.items() if k[0] != "monitoring.coreos.com/v1"]
    for value in objects:
        value.pop("status", None)
    path = tmp_path / "live.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    check_against_api(tools, path)
    cluster.helm("rollback", cluster.release, "1")
    container = cluster.api.all_of("Deployment")["serval-gateway"]["spec"]["template"]["spec"]["containers"][
        0
    ]
    assert "SERVAL_MAX_CHOICES" not in {entry["name"] for entry in container["env"]}
    cluster.helm("uninstall", cluster.release)
    # Only the checkpoint outlives the release.
    assert [value["kind"] for value in (m.value for m in cluster.api.objects.values())] == [
        "PersistentVolumeClaim"
    ]


def test_longest_release_name_makes_an_engine(cluster: Cluster) -> None:
    cluster.release = "a-name-of-fifty-three-characters-that-is-the-longest1"
    cluster.install("--values", CHART / "values-cpu-demo.yaml")
    assert cluster.api.replicas("StatefulSet").popitem()[1] == 1


def test_stand_in_refuses_what_the_api_refuses(cluster: Cluster, tmp_path: Path) -> None:
    """Otherwise the tests of this module could not fail."""
    cluster.install("--values", CHART / "values-cpu-demo.yaml")
    changed = "engine.cache.kind=claim"
    assert "spec: updates to ['volumeClaimTemplates'] are forbidden" in cluster.refusal(changed)
    path = tmp_path / "values.yaml"
    twice = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    path.write_text(yaml.safe_dump({"gateway": {"env": twice}}))
    done = cluster.helm("upgrade", cluster.release, CHART, KEPT, "--values", path, check=False)
    assert "duplicate entries for key [name]" in done.stderr


# ---- autoscaling


def test_turning_autoscaling_on_keeps_the_gateways(cluster: Cluster) -> None:
    cluster.install("--set", "gateway.replicas=4")
    cluster.upgrade(AUTOSCALING)
    assert cluster.gateways == {"serval-gateway": 4}
    # Nor does the next upgrade drop them, whether the autoscaler has changed their number or not.
    cluster.upgrade("gateway.settings.max_choices=4")
    assert cluster.gateways == {"serval-gateway": 4}
    cluster.api.scale("Deployment", "serval-gateway", 6)
    cluster.upgrade("gateway.settings.max_choices=5")
    assert cluster.gateways == {"serval-gateway": 6}


def test_rollback_leaves_the_number_to_the_autoscaler(cluster: Cluster) -> None:
    cluster.install("--set", AUTOSCALING)
    cluster.api.scale("Deployment", "serval-gateway", 3)
    cluster.upgrade("gateway.settings.max_choices=4")
    cluster.api.scale("Deployment", "serval-gateway", 5)
    cluster.upgrade("gateway.settings.max_choices=5")
    cluster.helm("rollback", cluster.release, "2")
    assert cluster.gateways == {"serval-gateway": 5}


def test_turning_autoscaling_off_is_refused_until_the_number_is_said(cluster: Cluster) -> None:
    cluster.install("--set", AUTOSCALING)
    cluster.api.scale("Deployment", "serval-gateway", 5)
    assert "serval-gateway has 5 pods; set gateway.replicas (now 2)" in cluster.refusal(NO_AUTOSCALING)
    assert cluster.gateways == {"serval-gateway": 5}
    cluster.upgrade(NO_AUTOSCALING, "gateway.replicas=5")
    assert cluster.gateways == {"serval-gateway": 5}
    assert cluster.api.all_of("HorizontalPodAutoscaler") == {}
    # The autoscaler is still named as an owner of the number: documented in the chart's README.
    assert 'conflict with "kube-controller-manager"' in cluster.refusal("gateway.replicas=4")
    cluster.helm("upgrade", cluster.release, CHART, KEPT, "--set", "gateway.replicas=4", "--force-conflicts")
    assert cluster.gateways == {"serval-gateway": 4}


def test_engines_keep_their_number_when_scaled_automatically(cluster: Cluster) -> None:
    scaling = "engine.autoscaling.enabled=true,engine.autoscaling.prometheusUrl=http://prometheus:9090"
    cluster.install("--set", "replicas=2")
    cluster.upgrade(scaling)
    assert cluster.api.replicas("StatefulSet") == {"serval-engine": 2}
    cluster.api.scale("StatefulSet", "serval-engine", 4)
    cluster.upgrade("gateway.settings.max_choices=4")
    assert cluster.api.replicas("StatefulSet") == {"serval-engine": 4}


# ---- layout of gateways


@pytest.mark.parametrize("autoscaling", [AUTOSCALING, NO_AUTOSCALING])
def test_gateways_of_each_engine_leave_when_those_of_all_are_ready(
    cluster: Cluster, autoscaling: str
) -> None:
    cluster.install("--set", f"replicas=2,gateway.perEngine=true,{autoscaling}")
    for name in ("serval-gateway-0", "serval-gateway-1"):
        cluster.api.scale("Deployment", name, 3)
    done = cluster.helm(
        "upgrade", cluster.release, CHART, KEPT,
        *sets("gateway.perEngine=false", "gateway.replicas=3", "gateway.autoscaling.maxReplicas=6"),
    )  # fmt: skip
    assert "serval-gateway-0, serval-gateway-1" in done.stdout
    old = {"serval-gateway-0": 3, "serval-gateway-1": 3}
    assert {name: cluster.gateways[name] for name in old} == old
    assert set(cluster.gateways) == {*old, "serval-gateway"}
    # Again before the new ones are ready: still nobody leaves.
    cluster.helm("upgrade", cluster.release, CHART, KEPT)
    assert set(cluster.gateways) == {*old, "serval-gateway"}
    cluster.api.scale("Deployment", "serval-gateway", 3)
    cluster.api.settle()
    done = cluster.helm("upgrade", cluster.release, CHART, KEPT)
    assert cluster.gateways == {"serval-gateway": 3}
    assert "serval-gateway-0" not in done.stdout
    assert set(cluster.api.all_of("PodDisruptionBudget")) == {"serval-gateway", "serval-engine"}


def test_layout_goes_back_in_the_same_way(cluster: Cluster) -> None:
    cluster.install("--set", "replicas=2")
    cluster.upgrade("gateway.perEngine=true")
    assert cluster.gateways == {"serval-gateway": 2, "serval-gateway-0": 2, "serval-gateway-1": 2}
    cluster.upgrade()
    assert cluster.gateways == {"serval-gateway-0": 2, "serval-gateway-1": 2}


# ---- drains


def left_by_a_drain(cluster: Cluster, machine: set[str]) -> set[str]:
    """Pods of `machine` that the budgets never let go; engines find no GPUs elsewhere, gateways a place.

    A budget lets as many pods be away at once as its `maxUnavailable`
    (https://kubernetes.io/docs/tasks/run-application/configure-pdb/).
    """
    pods = {
        f"{name}-{number}": value["spec"]["template"]["metadata"]["labels"]
        for kind in ("StatefulSet", "Deployment")
        for name, value in cluster.api.all_of(kind).items()
        for number in range(value["spec"]["replicas"])
    }
    assert machine <= set(pods)
    budgets = [
        (selected(budget["spec"]["selector"], pods), budget["spec"]["maxUnavailable"])
        for budget in cluster.api.all_of("PodDisruptionBudget").values()
    ]
    away: set[str] = set()
    staying = set(machine)
    for pod in sorted(machine) * len(machine):
        allowed = all(len(away & chosen) < most for chosen, most in budgets if pod in chosen)
        if pod in staying and allowed:
            staying.remove(pod)
            if "-engine-" in pod:
                away.add(pod)
    return staying


@pytest.mark.parametrize(
    ("settings", "left"),
    [([], set()), (["engine.disruptionBudget.maxUnavailable=1"], {"serval-engine-1"})],
    ids=["preset", "budget of one"],
)
def test_drain_of_the_machine_with_both_engines_ends(
    cluster: Cluster, settings: list[str], left: set[str]
) -> None:
    cluster.install("--values", CHART / "values-8xh100.yaml", *sets(NO_AUTOSCALING, *settings))
    pods = {"serval-engine-0", "serval-engine-1", "serval-gateway-0", "serval-gateway-1"}
    assert left_by_a_drain(cluster, pods) == left


# ---- claims


@pytest.mark.parametrize(
    ("modes", "settings", "reason"),
    [
        (["ReadWriteOnce"], "", "give gateways their tokenizer with gateway.tokenizer"),
        (["ReadWriteOnce"], "model.pvc.singleNode=true", None),
        (["ReadWriteOnce"], "gateway.tokenizer.source=gatewayImage,gateway.tokenizer.path=/opt/lite", None),
        (["ReadWriteOnce"], "replicas=2", "there are 2 engine pods"),
        (["ReadWriteOncePod"], "model.pvc.singleNode=true", "only one pod can mount lite"),
        (["ReadWriteOnce", "ReadOnlyMany"], "replicas=2", None),
        (["ReadWriteMany"], "replicas=2", None),
    ],
)
def test_claim_that_pods_cannot_share_is_refused(
    cluster: Cluster, modes: list[str], settings: str, reason: str | None
) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "lite"},
        "spec": {"accessModes": modes},
    }
    cluster.api.create(claim)
    values = sets(
        "model.source=pvc,model.path=lite,model.pvc.claimName=lite", *([settings] if settings else [])
    )
    done = cluster.helm("install", cluster.release, CHART, *KEYS, *values, "--dry-run=server", check=False)
    if reason is None:
        assert done.returncode == 0, done.stderr
    else:
        assert reason in done.stderr


# ---- earlier charts


def earlier_charts(folder: Path) -> dict[str, Path]:
    """Charts of the history, by the commit that made them; those that differ in more than comments."""
    git = ("git", "-C", str(ROOT))
    log = subprocess.run(
        [*git, "log", "--format=%h", "--", "helm/serval/templates"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found: dict[str, Path] = {}
    texts: set[str] = set()
    for commit in log.stdout.split():
        archive = subprocess.run(
            [*git, "archive", commit, "helm/serval", "deploy/prometheus/rules", "deploy/grafana/dashboards"],
            capture_output=True, check=False,
        )  # fmt: skip
        if archive.returncode == 0:
            (folder / commit).mkdir(parents=True)
            subprocess.run(["tar", "-x", "-C", folder / commit], input=archive.stdout, check=True)
            chart = folder / commit / "helm/serval"
            text = "".join(path.read_text() for path in sorted(chart.glob("templates/*")) if path.is_file())
            text = re.sub(
                r"^[ \t]*#[^\n]*\n|\{\{- /\*.*?\*/ ?-?\}\}", "", text, flags=re.MULTILINE | re.DOTALL
            )
            if text not in texts:
                found[commit] = chart
            texts.add(text)
    return found


def test_every_earlier_chart_is_upgraded_and_rolled_back(
    cluster: Cluster, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    charts = earlier_charts(tmp_path / "charts")
    if len(charts) < 2:
        pytest.skip("needs the repository's history (git clone without --depth)")
    for commit, chart in charts.items():
        with subtests.test(commit):
            cluster.api.objects.clear()
            preset = ("--values", chart / "values-cpu-demo.yaml", "--set", "replicas=2")
            cluster.install(*preset, chart=chart)
            old = dict(cluster.gateways)
            # The oldest charts have this value, and no claim for compiled kernels: see the chart's README.
            oldest = "cacheSize" in (chart / "values.yaml").read_text()
            gone = ["engine.cacheSize=null"] if oldest else []
            if oldest:
                assert "additional properties 'cacheSize' not allowed" in cluster.refusal()
                cluster.api.orphan("StatefulSet", "serval-engine")
            cluster.upgrade(*gone)
            assert cluster.gateways.items() >= old.items()
            cluster.upgrade()
            assert cluster.gateways == {"serval-gateway": 1}
            if not oldest:
                cluster.helm("rollback", cluster.release, "1")
                assert cluster.gateways == old


def test_rollback_to_a_chart_before_this_layout_leaves_nobody_without_a_gateway(
    cluster: Cluster, tmp_path: Path
) -> None:
    """In the order that the chart's README gives."""
    charts = [
        chart
        for chart in earlier_charts(tmp_path / "charts").values()
        if "perEngine" not in (chart / "values.yaml").read_text()
    ]
    if not charts:
        pytest.skip("needs the repository's history (git clone without --depth)")
    cluster.install("--values", charts[0] / "values-cpu-demo.yaml", "--set", "replicas=2", chart=charts[0])
    before = dict(cluster.gateways)
    cluster.upgrade()
    cluster.upgrade()
    assert cluster.gateways.keys().isdisjoint(before)
    cluster.upgrade("gateway.perEngine=true")
    cluster.upgrade()
    # From here on it replaces pods of the same Deployments, one at a time.
    assert cluster.gateways == before
    cluster.helm("rollback", cluster.release, "1")
    assert cluster.gateways == before
