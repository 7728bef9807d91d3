"""Alerts in whole situations of operation: promtool evaluates all rules, and only those listed fire."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from serval_testkit.metric_names import RULE_FILES, alerts, rules
from serval_testkit.operator_tools import OperatorTools
from serval_testkit.promtool import PromtoolTest, run_promtool_tests

UP = {"gateway": 'up{job="serval-gateway",%s}', "engine": 'up{job="serval-engine",%s}'}
READY = 'serval_engine_up{job="serval-gateway",%s}'
REQUESTS = 'serval_requests_total{job="serval-gateway",route="/v1/chat/completions",%s,status="%d"}'
BROKEN = 'serval_errors_total{job="serval-gateway",code="engine_stream_broken",%s}'
STOPS = 'serval_engine_stops_total{job="serval-gateway",%s,reason="%s"}'
PLACE_STATES = ("unknown", "loading", "ready", "draining", "failing", "mismatch")
FIRST_TOKENS = 'serval_time_to_first_token_seconds_%s{job="serval-gateway",%s}'


@dataclass(frozen=True)
class Scenario:
    """Series in promtool's notation, a value a minute, and the alerts that fire at a time."""

    about: str
    series: dict[str, str]
    at: str
    fires: frozenset[str] = frozenset()


def one_engine(
    *,
    gateway: str,
    engine: str,
    ready: str,
    broken: str = "0x300",
    told: str = "0x300",
    lost: str = "0x300",
) -> dict[str, str]:
    """Series of a release of one engine with one gateway, with Serval's labels."""
    labels = 'namespace="n",release="r",engine="0"'
    return {
        UP["gateway"] % f'{labels},instance="g"': gateway,
        UP["engine"] % f'{labels},instance="e"': engine,
        READY % f'{labels},instance="g"': ready,
        BROKEN % f'{labels},instance="g"': broken,
        STOPS % (f'{labels},instance="g"', "told"): told,
        STOPS % (f'{labels},instance="g"', "lost"): lost,
    }


def two_engines(*, second: str, ready: str, broken: str = "0x300", labels: bool = True) -> dict[str, str]:
    """Series of a release of two engines with two gateways each, of which the second changes."""
    series = {}
    for number, (up, is_ready, errors) in enumerate([("1x300", "1x300", "0x300"), (second, ready, broken)]):
        place = f'namespace="n",release="r",engine="{number}"' if labels else 'namespace="n"'
        series[UP["engine"] % f'{place},instance="e{number}"'] = up
        for gateway in "ab":
            own = f'{place},instance="g{number}{gateway}"'
            series |= {UP["gateway"] % own: "1x300", READY % own: is_ready, BROKEN % own: errors}
    return series


def fleet(
    *ready: str, serves: str = "1x300", told: str = "0x300", lost: str = "0x300", otherwise: str = "unknown"
) -> dict[str, str]:
    """Series of engines behind two gateways: `ready` of each, and else it is in the state `otherwise`.

    `told` and `lost` count the stops of each engine that is not always ready.
    """
    series = {}
    for gateway in "ab":
        own = f'namespace="n",release="r",instance="g{gateway}"'
        series |= {UP["gateway"] % own: "1x300", READY % own: serves, BROKEN % own: "0x300"}
        series |= {STOPS % (own, "told"): told, STOPS % (own, "lost"): lost}
        for number, values in enumerate(ready):
            place = f'job="serval-gateway",{own},place="e{number}"'
            states = dict.fromkeys(PLACE_STATES, "0x300") | {otherwise: inverted(values), "ready": values}
            stops = {"told": "0x300", "lost": "0x300"} if values == "1x300" else {"told": told, "lost": lost}
            series |= {
                f'serval_place_state{{{place},state="{name}"}}': given for name, given in states.items()
            }
            series |= {
                f'serval_place_stops_total{{{place},reason="{reason}"}}': given
                for reason, given in stops.items()
            }
    return series


def inverted(values: str) -> str:
    """Series that is 1 where `values`, of ones and zeros, is 0."""
    return re.sub(r"\b([01])x", lambda match: f"{1 - int(match[1])}x", values)


def traffic(ok: str, failed: str, status: int = 502) -> dict[str, str]:
    own = 'namespace="n",release="r",engine="0",instance="g"'
    return {
        UP["gateway"] % own: "1x400",
        REQUESTS % (own, 200): ok,
        REQUESTS % (own, status): failed,
    }


def late_first_tokens(in_time: str, all_of_them: str) -> dict[str, str]:
    own = 'namespace="n",release="r",engine="0",instance="g"'
    return {
        UP["gateway"] % own: "1x400",
        FIRST_TOKENS % ("bucket", f'{own},le="2.5"'): in_time,
        FIRST_TOKENS % ("count", own): all_of_them,
    }


def gateways(**releases: str) -> dict[str, str]:
    """Series `up` of one gateway of each release, in namespaces of their names."""
    return {
        UP["gateway"] % f'namespace="{name}",release="{name}",instance="g"': values
        for name, values in releases.items()
    }


def fires(*names: str) -> frozenset[str]:
    return frozenset(names)


SCENARIOS = [
    # An engine that is gone.
    Scenario(
        "one of two engines disappears with its target, without labels",
        two_engines(second="1x20 _x280", ready="1x20 0x280", labels=False),
        "200m",
        fires("ServalEngineNotReady"),
    ),
    Scenario(
        "one of two engines disappears with its target",
        two_engines(second="1x20 _x280", ready="1x20 0x280"),
        "200m",
        fires("ServalEngineNotReady"),
    ),
    Scenario(
        "one of two engines crashes with running answers: a ticket in minutes",
        two_engines(second="1x20 0x280", ready="1x20 0x280", broken="0x20 4x280"),
        "24m",
        fires("ServalEngineLost"),
    ),
    Scenario(
        "one of two engines crashed and does not come back",
        two_engines(second="1x20 0x280", ready="1x20 0x280", broken="0x20 4x280"),
        "60m",
        fires("ServalEngineLost", "ServalEngineNotReady", "ServalEngineDown"),
    ),
    Scenario(
        "one of two engines crashed and is back",
        two_engines(second="1x20 0x12 1x280", ready="1x20 0x12 1x280", broken="0x20 4x280"),
        "34m",
    ),
    Scenario(
        "the only engine crashes with running answers: a page in minutes",
        one_engine(gateway="1x300", engine="1x20 0x280", ready="1x20 0x280", broken="0x20 4x280"),
        "24m",
        fires("ServalEngineUnavailable", "ServalEngineLost"),
    ),
    Scenario(
        "the only engine was never there",
        one_engine(gateway="1x300", engine="_x300", ready="0x300"),
        "50m",
        fires("ServalEngineNotReady"),
    ),
    Scenario(
        "a start takes longer than it may",
        one_engine(gateway="1x300", engine="0x300", ready="0x300"),
        "37m",
        fires("ServalEngineNotReady", "ServalEngineDown"),
    ),
    Scenario(
        "the only engine is killed while it is idle: a page in minutes",
        one_engine(gateway="1x300", engine="1x20 0x280", ready="1x20 0x280", lost="0x20 1x280"),
        "24m",
        fires("ServalEngineUnavailable", "ServalEngineLost"),
    ),
    Scenario(
        "the only engine was killed while it was idle, long ago",
        one_engine(gateway="1x300", engine="1x20 0x280", ready="1x20 0x280", lost="0x20 1x280"),
        "200m",
        fires("ServalEngineUnavailable", "ServalEngineLost", "ServalEngineNotReady", "ServalEngineDown"),
    ),
    Scenario(
        "the only engine was killed while it was idle, and is back",
        one_engine(
            gateway="1x300", engine="1x20 0x8 1x280", ready="1x20 0x8 1x280", lost="0x20 1x280"
        ),
        "30m",
    ),
    Scenario(
        "the only idle engine is told to stop, and starts for 20 minutes",
        one_engine(gateway="1x300", engine="1x20 0x20 1x280", ready="1x20 0x20 1x280", told="0x20 1x280"),
        "38m",
    ),
    # Several engines behind each gateway.
    Scenario(
        "one of two engines of a fleet crashes: a ticket in minutes",
        fleet("1x300", "1x20 0x280", lost="0x20 1x280"),
        "24m",
        fires("ServalPlaceLost"),
    ),
    Scenario(
        "one of two engines of a fleet does not come back",
        fleet("1x300", "1x20 0x280", lost="0x20 1x280"),
        "80m",
        fires("ServalPlaceLost", "ServalPlaceAway"),
    ),
    Scenario(
        "both engines of a fleet are killed while idle: a page in minutes",
        fleet("1x20 0x280", "1x20 0x280", serves="1x20 0x280", lost="0x20 1x280"),
        "24m",
        fires("ServalPlaceLost", "ServalEngineUnavailable"),
    ),
    Scenario(
        "one of two engines of a fleet serves another model",
        fleet("1x300", "0x300", otherwise="mismatch"),
        "80m",
        fires("ServalPlaceMismatch"),
    ),
    Scenario(
        "an upgrade of the engines of a fleet, one after the other",
        fleet("1x20 0x20 1x260", "1x45 0x20 1x235", told="0x20 1x25 2x255"),
        "64m",
    ),
    Scenario(
        "a range that names more engines than there are",
        fleet("1x300", "0x300"),
        "200m",
    ),
    # Gateways that are gone.
    Scenario(
        "one of two releases loses all gateways",
        gateways(a="1x300", b="1x10 _x290"),
        "100m",
        fires("ServalGatewayAbsent"),
    ),
    Scenario(
        "one of two releases loses all gateways, without labels",
        {
            'up{job="serval-gateway",namespace="a",instance="g"}': "1x300",
            'up{job="serval-gateway",namespace="b",instance="g"}': "1x10 _x290",
        },
        "100m",
        fires("ServalGatewayAbsent"),
    ),
    Scenario("a gateway is replaced by another", gateways(a="1x10 _x290") | {
        'up{job="serval-gateway",namespace="a",release="a",instance="h"}': "_x10 1x290",
    }, "100m"),
    Scenario("no gateway at all", {'up{job="x"}': "1x300"}, "10m", fires("ServalGatewayAbsent")),
    Scenario("a gateway goes down", gateways(a="1x20 0x280"), "24m", fires("ServalGatewayDown")),
    Scenario("a gateway is down for hours", gateways(a="1x20 0x280"), "250m", fires("ServalGatewayDown")),
    Scenario("a gateway never comes", gateways(a="0x300"), "40m", fires("ServalGatewayDown")),
    # Planned work.
    Scenario(
        "an install whose engine loads for 12 minutes and whose gateway is not reached before",
        one_engine(gateway="0x12 1x300", engine="0x12 1x300", ready="_x12 1x300"),
        "12m",
    ),
    Scenario(
        "an install whose gateways listen at once",
        one_engine(gateway="1x300", engine="0x20 1x300", ready="0x20 1x300"),
        "19m",
    ),
    Scenario(
        "an upgrade of gateways and the only engine",
        one_engine(gateway="1x300", engine="0x12 1x300", ready="1x5 0x12 1x300")
        | {UP["gateway"] % 'namespace="n",release="r",engine="0",instance="new"': "_x5 0x12 1x300"},
        "16m",
    ),
    Scenario(
        "a new engine that starts for 20 minutes at the old one's address",
        {UP["engine"] % 'namespace="n",instance="e0"': "1x20 0x20 1x60"} | gateways(n="1x300"),
        "38m",
    ),
    Scenario(
        "an upgrade of one of two engines",
        two_engines(second="1x20 _x15 1x300", ready="1x20 0x15 1x300"),
        "34m",
    ),
    Scenario(
        "a drain of one of two engines' nodes for 30 minutes",
        two_engines(second="1x20 _x30 1x300", ready="1x20 0x30 1x300"),
        "49m",
    ),
    # Ratios.
    Scenario("one 502 among 31 requests in an hour", traffic("0+0.5x60 30x300", "0x59 1x300"), "63m"),
    Scenario(
        "one in ten of 300 requests in an hour fails",
        traffic("0+4.5x120", "0+0.5x120"),
        "90m",
        fires("ServalErrorBudgetBurnFast", "ServalErrorBudgetBurnSlow"),
    ),
    Scenario(
        "one late first token among 12 in an hour",
        late_first_tokens("0+0.2x60 11x300", "0+0.2x59 12x300"),
        "63m",
    ),
    Scenario(
        "all first tokens are late",
        late_first_tokens("0x120", "0+2x120"),
        "90m",
        fires("ServalFirstTokenBudgetBurnFast", "ServalFirstTokenBudgetBurnSlow"),
    ),
    Scenario("no request for hours", traffic("5x300", "0x300", 500), "100m"),
    Scenario("every request is refused with 429", traffic("0x300", "0+60x300", 429), "100m"),
    Scenario(
        "two of three clients leave",
        traffic("0+1x60", "0+2x60", 499),
        "50m",
        fires("ServalClientsGiveUp"),
    ),
    Scenario("two of three clients leave, in ten minutes", traffic("0x30 1x300", "0x30 2x300", 499), "45m"),
]  # fmt: skip


# Half a minute of CPU time.
@pytest.mark.timeout(900)
def test_rules_page_for_trouble_and_not_for_planned_work(tools: OperatorTools, tmp_path: Path) -> None:
    firing = 'count by (alertname) (ALERTS{alertstate="firing",alertname!="ServalWatchdog"}) > bool 0'
    tests = [
        PromtoolTest(
            scenario.about,
            scenario.series,
            firing,
            scenario.at,
            {f'{{alertname="{name}"}}': 1 for name in scenario.fires},
        )
        for scenario in SCENARIOS
    ]
    run_promtool_tests(tools, tmp_path, tests, rule_files=RULE_FILES, step="1m")


def test_ratios_are_absent_without_traffic() -> None:
    """A ratio of nothing to nothing would be NaN, which compares as neither more nor less."""
    for rule in rules():
        if re.search(r"_ratio_", rule.get("record", "")):
            assert rule["expr"].rstrip().endswith("> 0)"), rule["record"]


@pytest.mark.parametrize("rule", list(rules()), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_name_the_release(rule: dict[str, str]) -> None:
    """Every selector has the job that the chart narrows to a release, and every sum keeps the release."""
    if "vector(" in rule["expr"]:
        return
    text = re.sub(r"scalar\(serval:[\w:]+\)", "", rule["expr"])
    for metric, selector in re.findall(
        r"\b((?:serval[_:]|sglang:|up)[\w:]*)(\{[^}]*\})?", re.sub(r'"serval-\w+"', '"j"', text)
    ):
        if metric == "up" or not metric.startswith("serval-"):
            assert 'job="j"' in selector, (metric, rule)
    for labels in re.findall(r"\bby \(([^)]*)\)", text):
        if "serval" in rule["expr"]:
            assert {"namespace", "release"} <= set(labels.split(", ")), rule


def test_every_alert_can_be_told_from_that_of_another_release() -> None:
    for name, alert in alerts().items():
        if alert["labels"]["component"] == "platform":
            continue
        assert "$labels.instance" in str(alert) or "release" in alert["expr"] or "serval:" in alert["expr"], (
            name
        )
