"""Plan of a deployment: contents of each GPU, and room for tokens and requests."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from serval_sglang.config import LongcatConfig
from serval_sglang.drafts.refusals import DRAFTS_WITH_SPARSE_ATTENTION
from serval_sglang.options import RUNNING_REQUESTS_WITH_DRAFTS
from serval_sglang.plan.reserve import (
    BatchLimits,
    default_batch_limits,
    draft_graph_sets,
    reserve_bytes,
)
from serval_sglang.plan.shard_sizes import PlanError, TablePlacement, WeightDtype, shard_sizes

KvDtype = Literal["bf16", "fp8"]

# A chat, a long document, and the contexts that the model cards of Lite and of Lite-Sparse advertise.
CONCURRENCY_LENGTHS = (4_096, 32_768, 262_144, 983_040)

# Values of an indexer's key that share a scale.
_INDEX_KEY_BLOCK = 128
_FLOAT32_BYTES = 4
_KV_BYTES: Mapping[KvDtype, int] = {"bf16": 2, "fp8": 1}
# GPUs of one machine, and of several, which are tried only if one does not suffice.
LARGEST_TP_TRIED = 8
LARGEST_TP_OF_MACHINES = 32
_PLACEMENTS: tuple[TablePlacement, ...] = ("device", "8bit", "host")
_SHORTER_CONTEXTS = (131_072, 32_768)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A model, its format, and the GPUs that serve it.

    - `gpus`: all GPUs, divided among engines of `tp` GPUs each
    - `context_tokens`: the longest request, prompt and answer
    - `runtime_bytes`: memory of each GPU outside PyTorch: CUDA context, cuBLAS, NCCL
    - `mtp_steps`: tokens drafted at a time by the model's own layer; 0 for no drafts
    - `limits`, `reserve_bytes`, `max_running_requests`: None for SGLang's choice
    - `host_memory_bytes`: memory for n-gram tables on the host; None skips the check
    """

    config: LongcatConfig
    gpu_memory_bytes: int
    gpus: int
    tp: int
    ep: int
    weight_dtype: WeightDtype
    kv_dtype: KvDtype
    tables: TablePlacement
    context_tokens: int
    runtime_bytes: int
    mtp_steps: int = 0
    limits: BatchLimits | None = None
    reserve_bytes: int | None = None
    max_running_requests: int | None = None
    host_memory_bytes: int | None = None

    @property
    def engines(self) -> int:
        return self.gpus // self.tp


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Sizes in bytes; `weights_bytes`, `reserve_bytes` and `kv_bytes` are per GPU.

    - `host_bytes`: pinned host memory of all engines together
    - `kv_bytes`: memory left for the KV cache; negative if weights and reserve alone do not fit
    - `request_slots`: maximum of requests that one engine runs at a time, however short they are
    - `request_table_bytes`: size of the table that locates each request's tokens, part of the reserve
    - `concurrent_requests`: requests of a given length that one engine runs at a time, by length; lengths
      above the context are omitted
    """

    deployment: Deployment
    limits: BatchLimits
    weights_bytes: Mapping[str, int]
    host_bytes: int
    reserve_bytes: int
    kv_bytes: int
    kv_bytes_per_token: int
    kv_tokens: int
    request_slots: int
    request_table_bytes: int
    concurrent_requests: Mapping[int, int]

    @property
    def fits(self) -> bool:
        return not self.shortcomings

    @property
    def shortcomings(self) -> list[str]:
        """Reasons why the deployment does not fit; empty if it does."""
        given = self.deployment
        context, host_memory_bytes = given.context_tokens, given.host_memory_bytes
        found = []
        if self.kv_bytes < 0:
            found.append(f"weights and reserve need {_gib(-self.kv_bytes)} more than a GPU has")
        elif self.kv_tokens < context:
            found.append(
                f"the KV cache holds {self.kv_tokens:,} tokens, less than one request of {context:,}"
            )
        if self.request_table_bytes > self.reserve_bytes:
            found.append(
                f"the table of {context:,} tokens for each request needs {_gib(self.request_table_bytes)}, "
                "more than the reserve: a shorter context or fewer requests make it smaller"
            )
        if host_memory_bytes is not None and self.host_bytes > host_memory_bytes:
            found.append(
                f"the n-gram tables need {_gib(self.host_bytes - host_memory_bytes)} more host memory"
            )
        return found

    @property
    def mem_fraction_static(self) -> float:
        """Value of `--mem-fraction-static` that leaves this reserve: a share of what CUDA leaves free."""
        free = self.deployment.gpu_memory_bytes - self.deployment.runtime_bytes
        return int(1000 * (1 - self.reserve_bytes / free)) / 1000


def plan_deployment(deployment: Deployment) -> Plan:
    """Compute the plan. Raises `PlanError` if the model cannot be split as requested."""
    given = deployment
    if given.gpus % given.tp:
        raise PlanError(f"gpus must be a multiple of tp, got {given.gpus} gpus and tp {given.tp}.")
    if given.mtp_steps and given.config.sparse_attention is not None:
        raise PlanError(DRAFTS_WITH_SPARSE_ATTENTION)
    if given.tables == "8bit" and given.config.sparse_attention is not None:
        raise PlanError("tables must be 'device' or 'host': no 8-bit tables are written for this model.")
    if given.tables != "device" and not given.config.has_ngrams:
        raise PlanError(f"this model has no n-gram tables, so tables must be 'device', got {given.tables!r}.")
    sizes = shard_sizes(
        given.config,
        tp=given.tp,
        ep=given.ep,
        weight_dtype=given.weight_dtype,
        tables=given.tables,
        mtp=given.mtp_steps > 0,
    )
    limits = given.limits or default_batch_limits(given.gpu_memory_bytes, tp=given.tp)
    requests = _wanted_requests(given)
    if requests is not None:
        # SGLang captures no graph for more requests than may run.
        limits = replace(limits, graph_max_batch=min(limits.graph_max_batch, requests))
    reserve = given.reserve_bytes
    if reserve is None:
        sets = draft_graph_sets(given.mtp_steps, num_layers=given.config.num_layers) if given.mtp_steps else 1
        reserve = reserve_bytes(limits, given.gpu_memory_bytes, tp=given.tp, graph_sets=sets)
    kv_bytes = given.gpu_memory_bytes - given.runtime_bytes - reserve - sum(sizes.device_bytes.values())
    per_token = kv_bytes_per_token(given.config, given.kv_dtype, mtp=given.mtp_steps > 0)
    tokens = max(0, kv_bytes // per_token)
    slots = _request_slots(tokens, given)
    return Plan(
        deployment=given,
        limits=limits,
        weights_bytes=sizes.device_bytes,
        host_bytes=sizes.host_bytes * given.gpus,
        reserve_bytes=reserve,
        kv_bytes=kv_bytes,
        kv_bytes_per_token=per_token,
        kv_tokens=tokens,
        request_slots=slots,
        request_table_bytes=_request_table_bytes(slots, given),
        concurrent_requests={
            length: min(slots, tokens // (length + _reserved_tokens(given)))
            for length in CONCURRENCY_LENGTHS
            if length <= given.context_tokens
        },
    )


def kv_bytes_per_token(config: LongcatConfig, dtype: KvDtype, *, mtp: bool = False) -> int:
    """Count the bytes of latent and rotary key in both attentions of each layer, and in that of the
    multi-token-prediction layer, and those of sparse attention's indexer. Each rank holds them all."""
    latents = (2 * config.num_layers + mtp) * (config.kv_lora_rank + config.qk_rope_head_dim)
    return latents * _KV_BYTES[dtype] + config.num_layers * index_key_bytes(config)


def index_key_bytes(config: LongcatConfig) -> int:
    """Count the bytes of a token's key in the indexer of one layer, of any `--kv-dtype`: FP8 with a float32
    scale for each 128 values (sglang/srt/mem_cache/memory_pool.py, `DSATokenToKVPool`, which has no keys in
    attentions that take the choice of another). 0 without sparse attention."""
    if config.sparse_attention is None:
        return 0
    size = config.sparse_attention.index_head_dim
    return size + -(-size // _INDEX_KEY_BLOCK) * _FLOAT32_BYTES


def alternatives(plan: Plan) -> list[dict[str, Any]]:
    """Return sets of changes that would each make the deployment fit: with the same GPUs first, then fewest.

    Each maps fields of `Deployment` to new values, and none goes further than necessary: if half of the
    context would do, a quarter is not listed. The list is empty if nothing tried here helps. Expert
    parallelism is left as it is: it does not change the bytes of a rank. Engines on several machines are
    listed only if nothing fits one machine.
    """
    return _changes(plan, LARGEST_TP_TRIED) or _changes(plan, LARGEST_TP_OF_MACHINES)


def _changes(plan: Plan, largest_tp: int) -> list[dict[str, Any]]:
    ladders = _ladders(plan.deployment, plan.limits, largest_tp)
    fitting: list[tuple[int, ...]] = []
    # Less drastic steps come first, so a candidate is compared with all that could make it unnecessary.
    for steps in sorted(product(*(range(len(ladder)) for ladder in ladders)), key=sum):
        needless = any(all(a <= b for a, b in zip(other, steps, strict=True)) for other in fitting)
        if not needless and _fits(replace(plan.deployment, **_merged(ladders, steps))):
            fitting.append(steps)
    found = (_merged(ladders, steps) for steps in fitting)
    return sorted(found, key=lambda change: ("gpus" in change, len(change)))


def _ladders(given: Deployment, limits: BatchLimits, largest_tp: int) -> list[list[dict[str, Any]]]:
    """Return kinds of change, each a list of more and more drastic steps, starting with none."""
    sizes = [given.tp << doublings for doublings in range(1, largest_tp.bit_length())]
    chunks = [] if given.reserve_bytes is not None else [4096, 2048]
    ladders: list[list[dict[str, Any]]] = [
        [{"weight_dtype": "fp8"}] if given.weight_dtype == "bf16" else [],
        [{"kv_dtype": "fp8"}] if given.kv_dtype == "bf16" else [],
        # Back to the GPU, too: host memory may be what is short.
        [{"tables": tables} for tables in _PLACEMENTS if tables != given.tables],
        [_split_over(tp, given) for tp in sizes if tp <= largest_tp],
        [
            {"limits": replace(limits, chunked_prefill_size=chunk)}
            for chunk in chunks
            if chunk < limits.chunked_prefill_size
        ],
        [{"context_tokens": tokens} for tokens in _SHORTER_CONTEXTS if tokens < given.context_tokens],
    ]
    return [[{}, *steps] for steps in ladders]


def _split_over(tp: int, given: Deployment) -> dict[str, Any]:
    """Larger engines on the GPUs at hand, or one on more GPUs if they are too few."""
    if given.gpus % tp == 0:
        return {"tp": tp}
    return {"gpus": max(tp, given.gpus // tp * tp), "tp": tp}


def _merged(ladders: list[list[dict[str, Any]]], steps: tuple[int, ...]) -> dict[str, Any]:
    chosen = [ladder[step] for ladder, step in zip(ladders, steps, strict=True)]
    return {field: value for change in chosen for field, value in change.items()}


def _fits(deployment: Deployment) -> bool:
    try:
        return plan_deployment(deployment).fits
    except PlanError:
        return False


def _request_slots(kv_tokens: int, given: Deployment) -> int:
    """Compute SGLang 0.5.23's limit (sglang/srt/mem_cache/kv_cache_configurator.py,
    `resolve_max_num_reqs`)."""
    wanted = _wanted_requests(given)
    if wanted is None:
        wanted = max(2048, min(4096, kv_tokens * 512 // given.context_tokens))
    return min(wanted, kv_tokens // 2)


def _wanted_requests(given: Deployment) -> int | None:
    """Return the limit on requests that a flag sets, the operator's or ours; None if there is none."""
    if given.max_running_requests is None and given.mtp_steps:
        return RUNNING_REQUESTS_WITH_DRAFTS
    return given.max_running_requests


def _request_table_bytes(slots: int, given: Deployment) -> int:
    """Count `req_to_token` (sglang/srt/mem_cache/memory_pool.py, `ReqToTokenPool`) and our n-gram ring, both
    int32, with one row for padding."""
    width = given.mtp_steps + 1
    spare_columns = 4 + (width if given.mtp_steps else 0)
    # serval_kernels.ngram_context.ring_columns, which would import torch.
    columns = 1 << (given.config.emb_neighbor_num + width - 2).bit_length()
    ring = columns if given.config.has_ngrams else 0
    return (slots + 1) * (given.context_tokens + spare_columns + ring) * 4


def _reserved_tokens(given: Deployment) -> int:
    """Count places that a running request keeps behind its tokens (sglang/srt/mem_cache/allocation_sizing.py,
    `get_alloc_reserve_per_decode`)."""
    return 2 * (given.mtp_steps + 1) if given.mtp_steps else 0


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"
