"""Memory that an engine needs at least, and what this machine has. Imports neither torch nor SGLang."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace

from serval_sglang.checkpoint.inspection import Inspection
from serval_sglang.checkpoint.parts import Part
from serval_sglang.config import LongcatConfig
from serval_sglang.gpu_memory import UnknownMemoryError, gpu_memory_bytes
from serval_sglang.options import EngineOptions, flag_value, replicas
from serval_sglang.plan import Deployment, PlanError, plan_deployment
from serval_sglang.plan.reserve import BatchLimits, default_batch_limits
from serval_sglang.plan.shard_sizes import WeightDtype

# Flags with which a rank holds other weights than the plan computes.
_UNPLANNED_FLAGS = (
    "--attention-data-parallel-size",
    "--attn-dp-size",
    "--cpu-offload-gb",
    "--data-parallel-size",
    "--dp-size",
    "--enable-dp-attention",
    "--nnodes",
    "--quantization",
)
_GIB = 1 << 30
# An engine on a CPU without weights, almost all of it libraries: one of two of the demo model, by the sum of
# PSS in /proc/PID/smaps_rollup of its processes.
_LEAST_CPU_ENGINE_BYTES = 9 * _GIB // 8


def missing_memory(found: Inspection, options: EngineOptions, *, tables_on_host: bool) -> list[str]:
    """Return why the weights and what SGLang keeps free beside them do not fit; empty if they may.

    Only certain shortage is reported: memory that CUDA takes, and a KV cache of a useful size, come on top.
    """
    if options.device == "cpu":
        # Ranks share the machine's memory.
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        weights = replicas(options.sglang_flags) * _stored_bytes(
            found, options, tables_on_host=tables_on_host
        )
        return _larger_than(weights, machine, "this machine has") or _too_many(options, weights, machine)
    try:
        gpu = gpu_memory_bytes()
    except UnknownMemoryError:
        return []
    dtype = _planned_dtype(found)
    is_planned = not any(flag.partition("=")[0] in _UNPLANNED_FLAGS for flag in options.sglang_flags)
    if found.config is None or dtype is None or not is_planned:
        weights = _stored_bytes(found, options, tables_on_host=tables_on_host)
        return _larger_than(weights, options.tp * gpu, f"{options.tp} of its GPUs have")
    deployment = _deployment(found, found.config, dtype, options, gpu)
    return _shortage(replace(deployment, tables="host") if tables_on_host else deployment)


def _shortage(deployment: Deployment) -> list[str]:
    try:
        plan = plan_deployment(deployment)
    except PlanError as error:
        return [str(error)]
    if plan.kv_bytes > 0:
        return []
    gpu, weights = deployment.gpu_memory_bytes, sum(plan.weights_bytes.values())
    return [
        f"of {gpu / _GIB:.1f} GiB on each GPU, weights take {weights / _GIB:.1f} and activations "
        f"{plan.reserve_bytes / _GIB:.1f} (--mem-fraction-static), which leaves nothing for requests; "
        f"`serval plan --gpu-memory-gib {gpu / _GIB:.1f} --gpus {deployment.tp}` lists what would fit"
    ]


def _stored_bytes(found: Inspection, options: EngineOptions, *, tables_on_host: bool) -> int:
    elsewhere = {Part.UNKNOWN}
    elsewhere |= {Part.NGRAM_TABLES} if tables_on_host else set()
    elsewhere |= set() if options.mtp_steps else {Part.MTP}
    return sum(size.size_bytes for part, size in found.parts.items() if part not in elsewhere)


def _larger_than(weights: int, memory: int, place: str) -> list[str]:
    if weights <= memory:
        return []
    return [
        f"the weights take {weights / _GIB:.1f} GiB, and {place} {memory / _GIB:.1f}; "
        "`serval plan` says what they would fit on"
    ]


def _too_many(options: EngineOptions, weights: int, memory: int) -> list[str]:
    """Engines beside each other share the memory of a machine's CPUs."""
    engines = 1 if options.machine_part is None else options.machine_part.of
    needed = engines * (weights + _LEAST_CPU_ENGINE_BYTES)
    if engines == 1 or needed <= memory:
        return []
    return [
        f"{engines} engines take at least {needed / _GIB:.1f} GiB, and this machine has {memory / _GIB:.1f};"
        " start fewer of them"
    ]


def _planned_dtype(found: Inspection) -> WeightDtype | None:
    quantization = found.quantization
    if quantization is None:
        return "bf16"
    return "fp8" if (quantization.method, quantization.block) == ("fp8", (128, 128)) else None


def _deployment(
    found: Inspection, config: LongcatConfig, dtype: WeightDtype, options: EngineOptions, gpu: int
) -> Deployment:
    """Describe the engine for the plan, without anything that it could do with less of."""
    flags = options.sglang_flags
    defaults = default_batch_limits(gpu, tp=options.tp)
    fraction = _number(flags, "--mem-fraction-static")
    return Deployment(
        config=config,
        gpu_memory_bytes=gpu,
        gpus=options.tp,
        tp=options.tp,
        ep=options.ep,
        weight_dtype=dtype,
        kv_dtype="fp8",
        tables="device" if found.table_dtype is None else "8bit",
        context_tokens=1,
        runtime_bytes=0,
        mtp_steps=options.mtp_steps,
        limits=BatchLimits(
            int(_number(flags, "--chunked-prefill-size") or defaults.chunked_prefill_size),
            int(_number(flags, "--cuda-graph-max-bs-decode") or defaults.graph_max_batch),
        ),
        reserve_bytes=None if fraction is None else round((1 - fraction) * gpu),
    )


def _number(flags: Sequence[str], name: str) -> float | None:
    """Return a flag's value; None if it is absent or no finite number, which is left to SGLang."""
    try:
        value = float(flag_value(flags, name) or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
