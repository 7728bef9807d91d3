"""Ahead-of-time compilation of the kernels for absent GPUs: registers, spilled bytes, shared memory.

It compiles the launches that the operations make for LongCat-Flash-Lite: each is called with tensors that
have a shape but no memory (device "meta"), and its launch is recorded instead of executed.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend
from triton.runtime.jit import create_function_from_signature

from serval_kernels import combine_identity, ngram_gather, ngram_step, route_topk
from serval_kernels.bench.sizes import LITE, Sizes
from serval_kernels.ngram_context import ring_columns
from serval_kernels.ngram_ids import NgramHash
from serval_kernels.row_quantization import QuantizedTable

COMPUTE_CAPABILITIES = (80, 90, 100)

# Tokens in a decode batch and in a prefill chunk: some kernels are compiled differently for the two.
_FEW, _MANY = 64, 8192
_VERIFIED = 4  # tokens a request in a verify pass of three draft steps
_OPERATIONS = (combine_identity, ngram_gather, ngram_step, route_topk)
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments and options of its launch."""

    name: str
    kernel: Any
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """Resources that one compiled kernel uses."""

    name: str
    compute_capability: int
    warps: int
    registers: int  # per thread
    spilled_bytes: int  # per thread, local memory of any kind
    shared_bytes: int  # per program
    ptx: str


def recorded_launches(sizes: Sizes) -> list[Launch]:
    """Return the launch that each operation makes for a model of these sizes, for few tokens and many."""
    return [Launch(name, *_record(call)) for tokens in (_FEW, _MANY) for name, call in _calls(sizes, tokens)]


def compile_launch(recorded: Launch, compute_capability: int) -> Usage:
    """Compile a launch as Triton would on its first call on a GPU of that capability.

    Raises `subprocess.CalledProcessError` if cuobjdump, which comes with Triton, fails.
    """
    target = GPUTarget("cuda", compute_capability, 32)
    backend = make_backend(target)
    kernel = recorded.kernel
    options = {**recorded.options, "debug": False}
    bind = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, unbound = bind(*recorded.arguments, **options)
    parsed, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, unbound
    )
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(source, target=target, options=parsed.__dict__)
    registers, stack, shared, local = _resource_usage(compiled.asm["cubin"])
    return Usage(
        name=recorded.name,
        compute_capability=compute_capability,
        warps=parsed.num_warps,
        registers=registers,
        spilled_bytes=stack + local,
        shared_bytes=max(shared, compiled.metadata.shared),
        ptx=compiled.asm["ptx"],
    )


def usage_table(usages: list[Usage]) -> str:
    """Return a Markdown table with one row per kernel and one column per GPU."""
    header = " | ".join(f"sm_{capability}" for capability in COMPUTE_CAPABILITIES)
    lines = [f"| kernel | warps | {header} |", "| --- | ---: |" + " ---: |" * len(COMPUTE_CAPABILITIES)]
    for name in dict.fromkeys(usage.name for usage in usages):
        row = [usage for usage in usages if usage.name == name]
        cells = " | ".join(
            f"{usage.registers} / {usage.spilled_bytes} / {usage.shared_bytes}" for usage in row
        )
        lines.append(f"| {name} | {row[0].warps} | {cells} |")
    return "\n".join(lines)


def _calls(sizes: Sizes, tokens: int) -> Iterator[tuple[str, Callable[[], object]]]:
    if tokens <= _FEW:
        yield from _step_calls(sizes, tokens)
        yield from _layer_calls(sizes, tokens)
    yield from _gather_calls(sizes, tokens)


def _step_calls(sizes: Sizes, tokens: int) -> Iterator[tuple[str, Callable[[], object]]]:
    constants = NgramHash(
        _tensor(sizes.tables, sizes.order, dtype=torch.int64),
        _tensor(sizes.tables, dtype=torch.int64),
        _tensor(sizes.tables, dtype=torch.int64),
    )
    new_tokens, slots = (_tensor(tokens, dtype=torch.int64) for _ in range(2))
    plain, speculative = (
        _tensor(tokens, ring_columns(order=sizes.order, width=width), dtype=torch.int32)
        for width in (1, _VERIFIED)
    )
    before = _tensor(tokens, sizes.order - 1, dtype=torch.int32)
    starts, lengths = (_tensor(tokens, dtype=torch.int32) for _ in range(2))
    state: dict[str, Any] = {"ngram": constants, "eos_token_id": 2}
    decode: dict[str, Any] = {**state, "positions": new_tokens}
    runs: dict[str, Any] = {**decode, "slots": slots, "starts": starts, "lengths": lengths}
    yield "decode_step", partial(ngram_step.decode_step_triton, new_tokens, plain, slots=slots, **decode)
    yield (
        f"decode_step, {_VERIFIED} tokens a request",
        partial(
            ngram_step.decode_step_triton,
            new_tokens,
            speculative,
            slots=slots[: tokens // _VERIFIED],
            width=_VERIFIED,
            **decode,
        ),
    )
    yield "extend_step", partial(ngram_step.extend_step_triton, new_tokens, plain, **runs)
    yield (
        "extend_step, `before` given",
        partial(ngram_step.extend_step_triton, new_tokens, plain, **runs, before=before),
    )


def _layer_calls(sizes: Sizes, tokens: int) -> Iterator[tuple[str, Callable[[], object]]]:
    logits = _tensor(tokens, sizes.experts, dtype=torch.float32)
    bias = _tensor(sizes.experts, dtype=torch.float32)
    yield (
        "route_topk",
        partial(
            route_topk.route_topk_triton,
            logits,
            bias,
            top_k=sizes.top_k,
            routed_experts=sizes.routed_experts,
            scaling_factor=6.0,
        ),
    )
    hidden, weight = _tensor(tokens, sizes.hidden), _tensor(tokens, dtype=torch.float32)
    combine = partial(combine_identity.combine_identity_triton, hidden, hidden, weight)
    yield "combine_identity", combine
    yield "combine_identity, residual", partial(combine, residual=hidden)


def _gather_calls(sizes: Sizes, tokens: int) -> Iterator[tuple[str, Callable[[], object]]]:
    row_ids = _tensor(tokens, sizes.tables, dtype=torch.int64)
    scales = _tensor(sizes.rows, dtype=torch.float32)
    tables: dict[str, ngram_gather.NgramTable] = {
        "bf16": _tensor(sizes.rows, sizes.width),
        "int8": QuantizedTable(_tensor(sizes.rows, sizes.width, dtype=torch.int8), scales),
        "fp8": QuantizedTable(_tensor(sizes.rows, sizes.width, dtype=torch.float8_e4m3fn), scales),
    }
    for label, table in tables.items():
        call = partial(ngram_gather.ngram_gather_triton, row_ids, table, dtype=torch.bfloat16)
        yield f"ngram_gather {label}, T={tokens}", call


def _tensor(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _record(call: Callable[[], object]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    made: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def record(kernel: Any, grid: object, device: object, *arguments: Any, **options: Any) -> None:
        made.append((kernel, arguments, options))

    with ExitStack() as stack:
        for module in _OPERATIONS:
            stack.enter_context(patch.object(module, "launch", record))
        call()
    (only,) = made
    return only


def _resource_usage(cubin: bytes) -> tuple[int, int, int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = _USAGE.search(report)
    assert found is not None, report
    registers, stack, shared, local = (int(number) for number in found.groups())
    return registers, stack, shared, local


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m serval_kernels.bench.aot",
        description="Compile every kernel for sm_80, sm_90 and sm_100, without a GPU, and print for each: "
        "registers a thread / bytes spilled a thread / bytes of shared memory a program.",
    )
    parser.parse_args()
    usages = []
    for recorded in recorded_launches(LITE):
        for capability in COMPUTE_CAPABILITIES:
            print(f"compiling {recorded.name} for sm_{capability}", file=sys.stderr)
            usages.append(compile_launch(recorded, capability))
    print(usage_table(usages))
    return 0 if all(usage.spilled_bytes == 0 for usage in usages) else 1


if __name__ == "__main__":
    sys.exit(main())
