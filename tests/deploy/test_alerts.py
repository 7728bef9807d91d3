"""Alerts: the real rules, evaluated by promtool, fire when they should and are silent otherwise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from serval_testkit.metric_names import DEPLOY, alerts, metrics_of, rules
from serval_testkit.operator_tools import OperatorTools
from serval_testkit.promtool import PromtoolTest, run_promtool_tests

PLACE_STATES = ("unknown", "loading", "ready", "draining", "failing", "mismatch")
PLACE = 'release="serval",engine="0"'
GATEWAY = f'job="serval-gateway",instance="a",{PLACE}'
CHAT = f'{GATEWAY},route="/v1/chat/completions"'
ENGINE = f'job="serval-engine",instance="e",{PLACE}'


@dataclass(frozen=True)
class Case:
    """Series in promtool's notation (a value each `step`), and the expected state of `alert` at time `at`."""

    alert: str
    about: str
    series: dict[str, str]
    at: str
    fires: bool
    step: str = "1m"


def requests(ok: str, *, status: str, other: str) -> dict[str, str]:
    return {
        f'serval_requests_total{{{CHAT},status="200"}}': ok,
        f'serval_requests_total{{{CHAT},status="{status}"}}': other,
    }


def first_tokens(in_time: str, all_of_them: str) -> dict[str, str]:
    return {
        f'serval_time_to_first_token_seconds_bucket{{{GATEWAY},le="2.5"}}': in_time,
        f"serval_time_to_first_token_seconds_count{{{GATEWAY}}}": all_of_them,
    }


def tool_calls(complete: str, invalid: str) -> dict[str, str]:
    return {
        f'serval_tool_calls_total{{{GATEWAY},outcome="complete"}}': complete,
        f'serval_tool_calls_total{{{GATEWAY},outcome="invalid"}}': invalid,
    }


def rejections(reason: str, refused: str, all_of_them: str) -> dict[str, str]:
    return {
        f'serval_rejections_total{{{GATEWAY},reason="{reason}"}}': refused,
        f'serval_requests_total{{{CHAT},status="200"}}': all_of_them,
    }


def histogram(metric: str, bounds: tuple[str, str], fast: str, all_of_them: str) -> dict[str, str]:
    """Histogram of a gateway whose slow observations lie between the two bounds."""
    return {
        f'{metric}_bucket{{{GATEWAY},le="{bounds[0]}"}}': fast,
        f'{metric}_bucket{{{GATEWAY},le="{bounds[1]}"}}': all_of_them,
        f'{metric}_bucket{{{GATEWAY},le="+Inf"}}': all_of_them,
    }


def waits(fast: str, all_of_them: str) -> dict[str, str]:
    return histogram("serval_queue_wait_seconds", ("10.0", "30.0"), fast, all_of_them)


def lags(fast: str, all_of_them: str) -> dict[str, str]:
    return histogram("serval_event_loop_lag_seconds", ("0.25", "0.5"), fast, all_of_them)


def drafts(accepted: str, drafted: str, verifications: str) -> dict[str, str]:
    return {
        f'serval_engine_accepted_tokens_total{{{ENGINE},position="1"}}': accepted,
        f"serval_engine_drafted_tokens_total{{{ENGINE}}}": drafted,
        f"serval_engine_verifications_total{{{ENGINE}}}": verifications,
    }


def engine(running: str, tokens: str) -> dict[str, str]:
    return {
        f'sglang:num_running_reqs{{{ENGINE},tp_rank="0"}}': running,
        f'sglang:realtime_tokens_total{{{ENGINE},tp_rank="0",mode="decode"}}': tokens,
    }


def retracted(taken_back: str, all_of_them: str) -> dict[str, str]:
    return {
        f'sglang:num_retracted_requests_total{{{ENGINE},tp_rank="0"}}': taken_back,
        f"sglang:num_requests_total{{{ENGINE}}}": all_of_them,
    }


def between_tokens(fast: str, all_of_them: str) -> dict[str, str]:
    histogram = "sglang:inter_token_latency_seconds_bucket"
    return {
        f'{histogram}{{{ENGINE},le="0.05"}}': fast,
        f'{histogram}{{{ENGINE},le="0.5"}}': all_of_them,
        f'{histogram}{{{ENGINE},le="+Inf"}}': all_of_them,
    }


ENGINE_READY = f"serval_engine_up{{{GATEWAY}}}"
BROKEN = f'serval_errors_total{{{GATEWAY},code="engine_stream_broken"}}'


def lost_engine(ready: str) -> dict[str, str]:
    """Series of a gateway whose engine ends one minute after the start, with three answers running."""
    return {ENGINE_READY: ready, BROKEN: "0 3x100"}


def stopped(told: str, lost: str) -> dict[str, str]:
    """Series of a gateway that counts how its engine stopped; it ends after one minute."""
    stops = "serval_engine_stops_total"
    return {
        ENGINE_READY: "1 0x60",
        f'{stops}{{{GATEWAY},reason="told"}}': told,
        f'{stops}{{{GATEWAY},reason="lost"}}': lost,
    }


def place(
    name: str = "e1", *, told: str = "0x300", lost: str = "0x300", instance: str = "a", **states: str
) -> dict[str, str]:
    """Series of one of several engines as a gateway sees it; states that are not given are 0."""
    own = f'job="serval-gateway",release="serval",instance="{instance}",place="{name}"'
    values = dict.fromkeys(PLACE_STATES, "0x300") | states
    return {
        **{f'serval_place_state{{{own},state="{state}"}}': value for state, value in values.items()},
        f'serval_place_stops_total{{{own},reason="told"}}': told,
        f'serval_place_stops_total{{{own},reason="lost"}}': lost,
    }


def place_requests(finished: str, failed: str, outcome: str = "failed") -> dict[str, str]:
    own = f'{GATEWAY},place="e1"'
    return {
        f'serval_place_requests_total{{{own},outcome="finished"}}': finished,
        f'serval_place_requests_total{{{own},outcome="{outcome}"}}': failed,
    }


def computed(*tokens: str, waited: str) -> dict[str, str]:
    """Series of places e0, e1 and so on that compute prompts, and of requests that wait."""
    series = {f"serval_queue_wait_seconds_count{{{GATEWAY}}}": waited}
    for number, values in enumerate(tokens):
        labels = f'{GATEWAY},place="e{number}",kind="computed"'
        series[f"serval_place_prompt_tokens_total{{{labels}}}"] = values
        series |= place(f"e{number}", ready="1x300")
    return series


def key_errors(values: str) -> dict[str, str]:
    return {f'serval_errors_total{{{GATEWAY},code="key_database_unavailable"}}': values}


def notifications(failed: str) -> dict[str, str]:
    return {'alertmanager_notifications_failed_total{integration="webhook"}': failed}


def restarts(values: str) -> dict[str, str]:
    return {'kube_pod_container_status_restarts_total{namespace="n",pod="p",container="engine"}': values}


def volume(free: str) -> dict[str, str]:
    labels = 'namespace="n",persistentvolumeclaim="cache-serval-engine-0"'
    return {
        f"kubelet_volume_stats_available_bytes{{{labels}}}": free,
        f"kubelet_volume_stats_capacity_bytes{{{labels}}}": "100x60",
    }


def node(ready: str, *, runs: str) -> dict[str, str]:
    return {
        'kube_node_status_condition{node="gpu-0",condition="Ready",status="true"}': ready,
        f'kube_pod_container_info{{namespace="n",node="gpu-0",container="{runs}"}}': "1x60",
    }


GONE = {"ready": "1x20 0x280", "unknown": "0x20 1x280"}
GATEWAY_UP, ENGINE_UP = f"up{{{GATEWAY}}}", f"up{{{ENGINE}}}"
CASES = [
    Case("ServalGatewayDown", "down for 3 minutes", {GATEWAY_UP: "1x5 0x10"}, "10m", True),
    Case("ServalGatewayDown", "down for 1 minute", {GATEWAY_UP: "1x5 0 1x10"}, "8m", False),
    Case(
        "ServalGatewayDown", "another job is down", {'up{job="x"}': "0x20", GATEWAY_UP: "1x20"}, "20m", False
    ),
    Case("ServalGatewayAbsent", "no target", {'up{job="x"}': "1x20"}, "10m", True),
    Case("ServalGatewayAbsent", "a target that is down", {GATEWAY_UP: "0x20"}, "10m", False),
    Case("ServalGatewayDown", "waits for its first scrape", {GATEWAY_UP: "0x20 1x10"}, "20m", False),
    Case("ServalGatewayDown", "never came", {GATEWAY_UP: "0x60"}, "50m", True),
    Case("ServalEngineUnavailable", "broke streams off", lost_engine("1 0x60"), "50m", True),
    Case("ServalEngineUnavailable", "is back", lost_engine("1 0x10 1x60"), "20m", False),
    Case(
        "ServalEngineUnavailable", "stopped as told", {ENGINE_READY: "1 0x40", BROKEN: "3x41"}, "30m", False
    ),
    Case(
        "ServalEngineUnavailable",
        "one of two engines",
        lost_engine("1 0x20")
        | {'serval_engine_up{job="serval-gateway",release="serval",engine="1"}': "1x20"},
        "20m",
        False,
    ),
    Case("ServalEngineUnavailable", "was lost while idle", stopped("0x60", "0 1x60"), "10m", True),
    Case("ServalEngineUnavailable", "was lost, and still is", stopped("0x60", "0 1x60"), "50m", True),
    Case("ServalEngineUnavailable", "was told to stop while idle", stopped("0 1x60", "0x60"), "30m", False),
    Case("ServalEngineUnavailable", "one gateway was told", stopped("0 1x60", "0 1x60"), "10m", False),
    Case("ServalEngineUnavailable", "long ago", stopped("0x60", "3x60"), "30m", False),
    Case("ServalEngineLost", "was lost while idle", stopped("0x60", "0 1x60"), "50m", True),
    Case("ServalEngineLost", "was told to stop while idle", stopped("0 1x60", "0x60"), "30m", False),
    Case("ServalEngineLost", "one gateway was told", stopped("0 1x60", "0 1x60"), "10m", False),
    Case("ServalPlaceLost", "ended without a word", place(lost="0x20 1x280", **GONE), "24m", True),
    Case("ServalPlaceLost", "is still gone", place(lost="0x20 1x280", **GONE), "100m", True),
    Case("ServalPlaceLost", "was told to stop", place(told="0x20 1x280", **GONE), "24m", False),
    Case(
        "ServalPlaceLost",
        "is back",
        place(lost="0x20 1x280", ready="1x20 0x12 1x268", unknown="0x20 1x12 0x268"),
        "34m",
        False,
    ),
    Case(
        "ServalPlaceLost",
        "is no longer named",
        place(lost="0x20 1x280", ready="1x20 0x280", unknown="0x20 1x5 0x275"),
        "28m",
        False,
    ),
    Case(
        "ServalPlaceLost",
        "another gateway reaches it",
        place(lost="0x20 1x280", **GONE) | place(instance="b", ready="1x300"),
        "24m",
        False,
    ),
    Case("ServalPlaceAway", "for an hour", place(**GONE), "80m", True),
    Case(
        "ServalPlaceLost",
        "one gateway heard it say so and another did not",
        place(told="0x20 1x280", **GONE) | place(instance="b", lost="0x20 1x280", **GONE),
        "24m",
        False,
    ),
    Case("ServalPlaceAway", "for 20 minutes", place(**GONE), "40m", False),
    Case(
        "ServalPlaceAway",
        "serves another model now",
        place(ready="1x20 0x280", mismatch="0x20 1x280"),
        "100m",
        False,
    ),
    Case("ServalPlaceAway", "never was there", place(unknown="1x300"), "100m", False),
    Case(
        "ServalPlaceAway",
        "drains a long answer",
        place(ready="1x20 0x280", draining="0x20 1x280"),
        "100m",
        False,
    ),
    Case(
        "ServalPlaceFailing",
        "is left out again and again",
        place(ready="1 0 0 1 0 0 1 0 0x100", failing="0 1 1 0 1 1 0 1 1x100"),
        "30m",
        True,
    ),
    Case("ServalPlaceFailing", "half of its requests fail", place_requests("0+5x60", "0+5x60"), "30m", True),
    Case(
        "ServalPlaceFailing",
        "half of its requests get no answer",
        place_requests("0+5x60", "0+5x60", "unanswered"),
        "30m",
        True,
    ),
    Case("ServalPlaceFailing", "1 in 20 fails", place_requests("0+19x60", "0+1x60"), "30m", False),
    Case("ServalPlaceFailing", "one of two fails", place_requests("0x9 1x60", "0x9 1x60"), "15m", False),
    Case(
        "ServalPlaceFailing",
        "clients leave",
        place_requests("0+5x60", "0+5x60", "cancelled"),
        "30m",
        False,
    ),
    Case("ServalPlaceMismatch", "for an hour", place(mismatch="1x300"), "60m", True),
    Case(
        "ServalPlaceMismatch",
        "while a new model is rolled out",
        place(mismatch="0x5 1x25 0x270", ready="1x5 0x25 1x270"),
        "30m",
        False,
    ),
    Case(
        "ServalPlacesUnbalanced",
        "one of two computes nearly all, and requests wait",
        computed("0+90000x120", "0+10000x120", waited="0+5x120"),
        "100m",
        True,
    ),
    Case(
        "ServalPlacesUnbalanced",
        "one of two computes nearly all, and none waits",
        computed("0+90000x120", "0+10000x120", waited="0x120"),
        "100m",
        False,
    ),
    Case(
        "ServalPlacesUnbalanced",
        "one of two computes a quarter more than the mean",
        computed("0+50000x120", "0+30000x120", waited="0+5x120"),
        "100m",
        False,
    ),
    Case(
        "ServalPlacesUnbalanced",
        "one has just come back",
        computed("0+90000x120", "0x95 0+90000x25", waited="0+5x120")
        | place("e1", ready="0x95 1x25", loading="1x95 0x25"),
        "100m",
        False,
    ),
    Case("ServalEngineLost", "broke streams off", lost_engine("1 0x60"), "50m", True),
    Case("ServalEngineLost", "stopped as told", {ENGINE_READY: "1 0x40", BROKEN: "3x41"}, "30m", False),
    Case(
        "ServalEngineLost",
        "another engine broke streams off",
        {
            ENGINE_READY: "1x30",
            'serval_engine_up{job="serval-gateway",release="serval",engine="1"}': "1 0x30",
            BROKEN: "0 3x30",
        },
        "10m",
        False,
    ),
    Case("ServalEngineNotReady", "for 40 minutes", {ENGINE_READY: "1 0x60"}, "41m", True),
    Case("ServalEngineNotReady", "starts for 20 minutes", {ENGINE_READY: "0x20 1x60"}, "21m", False),
    Case(
        "ServalEngineNotReady",
        "one of two gateways of the engine has it",
        {ENGINE_READY: "0x60", f'serval_engine_up{{job="serval-gateway",instance="b",{PLACE}}}': "1x60"},
        "50m",
        False,
    ),
    Case(
        "ServalErrorBudgetBurnFast",
        "2 % fail for an hour",
        requests("0+98x120", status="500", other="0+2x120"),
        "90m",
        True,
    ),
    Case(
        "ServalErrorBudgetBurnFast",
        "1 % fail for six hours",
        requests("0+99x500", status="503", other="0+1x500"),
        "7h",
        True,
    ),
    Case(
        "ServalErrorBudgetBurnFast",
        "it is over",
        requests("0+100x200", status="500", other="0+10x60 600x140"),
        "150m",
        False,
    ),
    Case(
        "ServalErrorBudgetBurnFast",
        "0.3 % fail",
        requests("0+997x130", status="500", other="0+3x130"),
        "2h",
        False,
    ),
    Case(
        "ServalErrorBudgetBurnFast",
        "only 4xx",
        requests("0+50x130", status="400", other="0+50x130"),
        "2h",
        False,
    ),
    Case(
        "ServalErrorBudgetBurnFast",
        "only health checks fail",
        requests("0+100x130", status="400", other="0x130")
        | {'serval_requests_total{job="serval-gateway",route="/readyz",status="503"}': "0+9x130"},
        "2h",
        False,
    ),
    Case(
        "ServalErrorBudgetBurnSlow",
        "0.4 % fail for a day",
        requests("0+996x120", status="500", other="0+4x120"),
        "28h",
        True,
        "15m",
    ),
    Case(
        "ServalErrorBudgetBurnSlow",
        "0.2 % fail for three days",
        requests("0+998x340", status="500", other="0+2x340"),
        "80h",
        True,
        "15m",
    ),
    Case(
        "ServalErrorBudgetBurnSlow",
        "0.05 % fail",
        requests("0+1999x340", status="500", other="0+1x340"),
        "80h",
        False,
        "15m",
    ),
    Case(
        "ServalErrorBudgetBurnSlow",
        "no request at all",
        requests("0x340", status="500", other="0x340"),
        "80h",
        False,
        "15m",
    ),
    Case(
        "ServalFirstTokenBudgetBurnFast",
        "80 % late for an hour",
        first_tokens("0+20x120", "0+100x120"),
        "90m",
        True,
    ),
    Case("ServalFirstTokenBudgetBurnFast", "4 % late", first_tokens("0+96x130", "0+100x130"), "2h", False),
    Case(
        "ServalFirstTokenBudgetBurnSlow",
        "20 % late for a day",
        first_tokens("0+80x120", "0+100x120"),
        "28h",
        True,
        "15m",
    ),
    Case(
        "ServalFirstTokenBudgetBurnSlow",
        "7 % late for three days",
        first_tokens("0+93x340", "0+100x340"),
        "80h",
        True,
        "15m",
    ),
    Case(
        "ServalFirstTokenBudgetBurnSlow",
        "4 % late",
        first_tokens("0+96x340", "0+100x340"),
        "80h",
        False,
        "15m",
    ),
    Case(
        "ServalClientsGiveUp", "30 % leave", requests("0+70x40", status="499", other="0+30x40"), "30m", True
    ),
    Case(
        "ServalClientsGiveUp", "10 % leave", requests("0+90x40", status="499", other="0+10x40"), "30m", False
    ),
    Case("ServalToolCallsInvalid", "10 % are invalid", tool_calls("0+90x60", "0+10x60"), "45m", True),
    Case("ServalToolCallsInvalid", "1 % is invalid", tool_calls("0+99x60", "0+1x60"), "45m", False),
    Case("ServalManyWrongKeys", "2 a second", requests("0x40", status="401", other="0+120x40"), "30m", True),
    Case(
        "ServalManyWrongKeys", "1 in 10 seconds", requests("0x40", status="401", other="0+6x40"), "30m", False
    ),
    Case("ServalQueueTimeLong", "a tenth wait too long", waits("0+90x40", "0+100x40"), "30m", True),
    Case("ServalQueueTimeLong", "1 in 100 waits too long", waits("0+99x40", "0+100x40"), "30m", False),
    Case("ServalQueueTimeLong", "none waits", waits("0x40", "0x40"), "30m", False),
    Case("ServalManyRejections", "half", rejections("tokens", "0+30x60", "0+60x60"), "45m", True),
    Case("ServalManyRejections", "1 in 10", rejections("tokens", "0+6x60", "0+60x60"), "45m", False),
    Case(
        "ServalManyRejections",
        "not by a limit",
        rejections("limits_unavailable", "0+30x60", "0+60x60"),
        "45m",
        False,
    ),
    Case(
        "ServalLimitsUnavailable",
        "one a minute",
        rejections("limits_unavailable", "0+1x30", "0+60x30"),
        "20m",
        True,
    ),
    Case("ServalLimitsUnavailable", "by limits", rejections("tokens", "0+9x30", "0+60x30"), "20m", False),
    Case(
        "ServalUsageDropped",
        "some requests",
        {f'serval_usage_dropped_total{{{GATEWAY},kind="requests"}}': "0x5 7x20"},
        "8m",
        True,
    ),
    Case(
        "ServalUsageDropped",
        "no requests",
        {f'serval_usage_dropped_total{{{GATEWAY},kind="requests"}}': "7x30"},
        "20m",
        False,
    ),
    Case(
        "ServalBreakerOpen",
        "for 3 minutes",
        {f"serval_engine_breaker_open{{{GATEWAY}}}": "0 1x10"},
        "5m",
        True,
    ),
    Case(
        "ServalBreakerOpen",
        "for 1 minute",
        {f"serval_engine_breaker_open{{{GATEWAY}}}": "0 1 0x9"},
        "5m",
        False,
    ),
    Case(
        "ServalWorkersReplaced",
        "one a minute",
        {f"serval_worker_restarts_total{{{GATEWAY}}}": "0x5 1+1x20"},
        "12m",
        True,
    ),
    Case(
        "ServalWorkersReplaced",
        "one, and a new gateway",
        {f"serval_worker_restarts_total{{{GATEWAY}}}": "0x5 1x5 0x20"},
        "12m",
        False,
    ),
    Case("ServalEventLoopSlow", "2 % late", lags("0+980x40", "0+1000x40"), "30m", True),
    Case("ServalEventLoopSlow", "1 in 1,000 late", lags("0+999x40", "0+1000x40"), "30m", False),
    Case("ServalEngineDown", "down for 40 minutes", {ENGINE_UP: "1x5 0x60"}, "46m", True),
    Case("ServalEngineDown", "starts for 20 minutes", {ENGINE_UP: "1x20 0x20 1x60"}, "40m", False),
    Case("ServalEngineStuck", "requests, but no tokens", engine("4x30", "0+900x10 9000x20"), "25m", True),
    Case(
        "ServalEngineStuck",
        "hangs in its first request",
        {f"sglang:num_running_reqs{{{ENGINE}}}": "1x30"},
        "25m",
        True,
    ),
    Case("ServalEngineStuck", "works", engine("4x30", "0+900x30"), "25m", False),
    Case("ServalEngineStuck", "idle", engine("0x30", "9000x30"), "25m", False),
    Case("ServalEngineQueueLong", "40 wait", {f"sglang:num_queue_reqs{{{ENGINE}}}": "40x30"}, "20m", True),
    Case("ServalEngineQueueLong", "20 wait", {f"sglang:num_queue_reqs{{{ENGINE}}}": "20x30"}, "20m", False),
    Case("ServalKvCacheFull", "98 % in use", {f"sglang:token_usage{{{ENGINE}}}": "0.98x30"}, "20m", True),
    Case(
        "ServalKvCacheFull",
        "full for a moment",
        {f"sglang:token_usage{{{ENGINE}}}": "0.98x5 0.6x30"},
        "20m",
        False,
    ),
    Case("ServalEngineRetracts", "1 in 10", retracted("0+6x40", "0+60x40"), "30m", True),
    Case("ServalEngineRetracts", "1 in 60", retracted("0+1x40", "0+60x40"), "30m", False),
    Case("ServalDraftsCostMoreThanTheyGive", "1 in 20", drafts("0+5x60", "0+100x60", "0+40x60"), "55m", True),
    Case(
        "ServalDraftsCostMoreThanTheyGive", "1 in 4", drafts("0+25x60", "0+100x60", "0+40x60"), "55m", False
    ),
    Case(
        "ServalDraftsCostMoreThanTheyGive", "trials", drafts("0+1x60", "0+100x60", "0+900x60"), "55m", False
    ),
    Case("ServalInterTokenSlow", "half of them slow", between_tokens("0+500x40", "0+1000x40"), "30m", True),
    Case("ServalInterTokenSlow", "1 % slow", between_tokens("0+990x40", "0+1000x40"), "30m", False),
    Case("ServalKeyDatabaseUnavailable", "one a minute", key_errors("0x5 0+1x30"), "20m", True),
    Case("ServalKeyDatabaseUnavailable", "long ago", key_errors("0x5 4x30"), "20m", False),
    Case("ServalContainerRestarts", "once", restarts("2x5 3x30"), "10m", True),
    Case("ServalContainerRestarts", "a day ago", restarts("3x30"), "20m", False),
    Case(
        "ServalCrashLoop", "every five minutes", restarts("0 0 0 0 0 1x5 2x5 3x5 4x5 5x5 6x30"), "40m", True
    ),
    Case("ServalCrashLoop", "once", restarts("2x5 3x60"), "20m", False),
    Case("ServalNodeNotReady", "an engine's", node("1x5 0x50", runs="engine"), "15m", True),
    Case("ServalNodeNotReady", "another's", node("1x5 0x50", runs="web"), "15m", False),
    Case(
        "ServalGpuFault",
        "a double-bit error",
        {'DCGM_FI_DEV_ECC_DBE_VOL_TOTAL{gpu="0"}': "0x5 1x20"},
        "10m",
        True,
    ),
    Case("ServalGpuFault", "an Xid error", {'DCGM_FI_DEV_XID_ERRORS{gpu="0"}': "0x5 79x20"}, "10m", True),
    Case("ServalGpuFault", "an old Xid error", {'DCGM_FI_DEV_XID_ERRORS{gpu="0"}': "13x60"}, "50m", False),
    Case(
        "ServalGpuThrottled", "too hot", {'DCGM_FI_DEV_THERMAL_VIOLATION{gpu="0"}': "0+100x60"}, "50m", True
    ),
    Case("ServalGpuThrottled", "cool", {'DCGM_FI_DEV_THERMAL_VIOLATION{gpu="0"}': "100x60"}, "50m", False),
    Case("ServalDiskFull", "5 % free", volume("5x60"), "30m", True),
    Case("ServalDiskFull", "20 % free", volume("20x60"), "30m", False),
    Case(
        "ServalCertificateExpires",
        "in a week",
        {'probe_ssl_earliest_cert_expiry{instance="i"}': "604800x90"},
        "80m",
        True,
    ),
    Case(
        "ServalCertificateExpires",
        "in a month",
        {'probe_ssl_earliest_cert_expiry{instance="i"}': "2592000x90"},
        "80m",
        False,
    ),
    Case("ServalNotificationsFail", "each", notifications("0+1x60"), "30m", True),
    Case("ServalNotificationsFail", "none", notifications("7x60"), "30m", False),
]


def rules_behind(alert: str) -> list[dict[str, Any]]:
    """Recording rules of an alert and the alert: evaluating all rules would take ten times as long."""
    rule = alerts()[alert]
    needed = metrics_of(rule["expr"])
    return [recorded for recorded in rules() if recorded.get("record") in needed] + [rule]


@pytest.mark.parametrize(("alert", "step"), sorted({(case.alert, case.step) for case in CASES}))
def test_alert_fires_or_is_silent(alert: str, step: str, tools: OperatorTools, tmp_path: Path) -> None:
    rule_file = tmp_path / "rules.yml"
    rule_file.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules_behind(alert)}]}))
    firing = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    tests = [
        PromtoolTest(case.about, case.series, firing, case.at, {"{}": int(case.fires)})
        for case in CASES
        if (case.alert, case.step) == (alert, step)
    ]
    run_promtool_tests(tools, tmp_path, tests, rule_files=[rule_file], step=step)


@pytest.mark.parametrize("fires", [True, False])
def test_alerts_have_a_case_that_fires_and_one_that_does_not(fires: bool) -> None:
    assert {case.alert for case in CASES if case.fires is fires} == set(alerts()) - {"ServalWatchdog"}


@pytest.mark.parametrize("name", alerts())
def test_alert_is_complete_and_has_a_runbook(name: str) -> None:
    alert = alerts()[name]
    assert alert["labels"]["severity"] in {"critical", "warning"} | (
        {"none"} if name == "ServalWatchdog" else set()
    )
    assert alert["labels"]["component"] in {"gateway", "engine", "platform"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    runbook = DEPLOY.parent / alert["annotations"]["runbook"]
    assert runbook == DEPLOY / "runbooks" / f"{name}.md"
    assert runbook.read_text().startswith(f"# {name}\n")


def test_runbooks_belong_to_alerts() -> None:
    assert {path.stem for path in (DEPLOY / "runbooks").glob("*.md")} == set(alerts())
