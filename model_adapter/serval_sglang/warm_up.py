"""Sampled requests that the engine answers before it reports ready.

SGLang's own warm-up decodes greedily. The first requests that sample, penalise or follow a grammar would
therefore wait for their kernels to be compiled or loaded (flashinfer, Triton, torch), and all streams with
them. They run before SGLang's warm-up, which ends with the engine ready, and are left out of its metrics of
requests. `--skip-server-warmup` skips both; with `--tokenizer-worker-num` SGLang runs only its own.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests

_LISTEN_TIMEOUT_S = 120.0  # as SGLang's
_REQUEST_TIMEOUT_S = 600.0  # as SGLang's, unless SGLANG_WARMUP_TIMEOUT is set
_POLL_S = 0.05

Sampling = Mapping[str, Any]

_SAMPLED: Mapping[str, Sampling] = {
    "top_p and top_k": {"top_p": 0.9, "top_k": 20},
    "min_p": {"min_p": 0.1},
    "penalties": {"frequency_penalty": 0.1, "presence_penalty": 0.1},
}
_CONSTRAINED: Mapping[str, Sampling] = {"a grammar": {"regex": "[0-9]+"}}
# Compiled by torch.compile, which takes many seconds on a CPU and needs a C++ compiler.
_COMPILED: Mapping[str, Sampling] = {"a repetition penalty": {"repetition_penalty": 1.1}}

logger = logging.getLogger(__name__)


class WarmUpFailed(RuntimeError):
    """The engine did not answer a sampled request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The engine's own HTTP server, and what a request to it needs.

    `ranks` counts ranks of attention DP, each of which samples by itself. `verify` is the argument of
    `requests`. `bootstrap_host` is SGLang's stand-in for the other engine of a disaggregated pair.
    """

    url: str
    headers: Mapping[str, str]
    verify: bool | str
    ranks: int = 1
    bootstrap_host: str | None = None
    request_timeout_s: float = _REQUEST_TIMEOUT_S


def warm_up(server_args: Any) -> bool:
    """Sample, then run SGLang's warm-up; SGLang calls this in a thread, as its `execute_warmup_func`.

    Returns False if a request failed; all processes of the engine then end, with the reason on stderr.
    """
    from sglang.srt.entrypoints.http_server import _execute_server_warmup
    from sglang.srt.utils import kill_process_tree

    try:
        sample(_target(server_args), _sampled_requests(server_args))
    except Exception as error:  # noqa: BLE001  # in a thread, any other would leave the engine unready for good
        print(f"serval: the engine is not ready: {error}", file=sys.stderr, flush=True)
        kill_process_tree(os.getpid())
        return False
    return bool(_execute_server_warmup(server_args))


def sample(target: Target, sampled: Mapping[str, Sampling]) -> None:
    """Send each request to each rank, one after another. Raises `WarmUpFailed` if one is not answered."""
    _wait_until_listening(target)
    for name, sampling in sampled.items():
        started_s = time.monotonic()
        for rank in range(target.ranks):
            _send(target, name, request_body(sampling, target, rank))
        logger.info("Sampling with %s is ready (%.1f s).", name, time.monotonic() - started_s)


def _sampled_requests(server_args: Any) -> dict[str, Sampling]:
    from sglang.srt.runtime_context import get_disagg, get_exec, get_serving

    has_grammars = (
        not get_serving().skip_tokenizer_init
        and get_exec().kernel.grammar_backend != "none"
        # The first token, which SGLang's stand-in for the prefill engine makes up, fits no grammar.
        and get_disagg().disaggregation_mode != "decode"
    )
    return {
        **_SAMPLED,
        **(_CONSTRAINED if has_grammars else {}),
        **(_COMPILED if server_args.device != "cpu" else {}),
    }


def _target(server_args: Any) -> Target:
    from sglang.srt.arg_groups.serving_hook import ssl_verify_of
    from sglang.srt.disaggregation.utils import FAKE_BOOTSTRAP_HOST
    from sglang.srt.environ import envs
    from sglang.srt.runtime_context import get_disagg, get_parallel, get_serving

    key, timeout_s = get_serving().api_key, envs.SGLANG_WARMUP_TIMEOUT.get()
    return Target(
        url=server_args.url(),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        verify=ssl_verify_of(server_args),
        ranks=get_parallel().num_dp_ranks,
        bootstrap_host=None if get_disagg().disaggregation_mode == "null" else FAKE_BOOTSTRAP_HOST,
        request_timeout_s=timeout_s if timeout_s > 0 else _REQUEST_TIMEOUT_S,
    )


def _wait_until_listening(target: Target) -> None:
    deadline_s = time.monotonic() + _LISTEN_TIMEOUT_S
    while True:
        try:
            requests.get(f"{target.url}/model_info", headers=target.headers, verify=target.verify, timeout=5)
        except requests.RequestException as error:
            if time.monotonic() > deadline_s:
                raise WarmUpFailed(f"its HTTP server does not answer: {error}") from error
            time.sleep(_POLL_S)
        else:
            return


def request_body(sampling: Sampling, target: Target, rank: int) -> dict[str, Any]:
    """Return the JSON of a request to `/generate` that SGLang does not count in its metrics of requests."""
    body: dict[str, Any] = {
        "input_ids": [10, 11, 12],
        "sampling_params": {"temperature": 1.0, "max_new_tokens": 2, **sampling},
        "log_metrics": False,
    }
    if target.ranks > 1:
        body["routed_dp_rank"] = rank
    if target.bootstrap_host is not None:
        body |= {"bootstrap_host": target.bootstrap_host, "bootstrap_room": rank}
    return body


def _send(target: Target, name: str, body: Mapping[str, Any]) -> None:
    try:
        response = requests.post(
            f"{target.url}/generate",
            json=body,
            headers=target.headers,
            verify=target.verify,
            timeout=target.request_timeout_s,
        )
    except requests.RequestException as error:
        raise WarmUpFailed(f"a request that samples with {name} got no answer: {error}") from error
    if response.status_code != 200:
        raise WarmUpFailed(f"a request that samples with {name} was refused: {response.text}")
    reason = response.json()["meta_info"]["finish_reason"]
    if reason["type"] == "abort":
        raise WarmUpFailed(f"a request that samples with {name} was aborted: {reason.get('message')}")
