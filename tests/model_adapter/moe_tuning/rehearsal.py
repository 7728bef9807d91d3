"""Tuning on a CPU: SGLang's real kernel under Triton's interpreter, with given times. Prints JSON.

Usage: `TRITON_INTERPRET=1 python -P rehearsal.py FOLDER`, which receives the tuned files. A GPU is replaced
in three places: its name, the sort of slots by expert, and the registration of SGLang's operator. The
interpreter multiplies FP8 but not bfloat16 (it takes their bits for integers), and truncates where a GPU
rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sglang.srt.layers.moe.moe_runner.triton_utils import fused_moe, fused_moe_triton_config
from torch import Tensor

from serval_sglang.known_configs import LITE
from serval_sglang.moe_tuning import kernel, trial, tune
from serval_sglang.moe_tuning.experts import Shape, expert_shape
from serval_sglang.moe_tuning.search import Launch

SHAPE = Shape(experts=4, width=128, hidden=256, top_k=3, routed_experts=4, all_experts=6, dtype="fp8")
AXES = {"BLOCK_SIZE_M": (16, 64), "BLOCK_SIZE_N": (64, 128)}
# Microseconds by the two sizes of the axes; the launch that would be fastest gives wrong results.
TIMES = {(64, 128): 40.0, (16, 128): 30.0, (16, 64): 20.0, (64, 64): 1.0}
WRONG = (64, 64)


def sizes(launch: Launch) -> tuple[int, int]:
    return launch["BLOCK_SIZE_M"], launch["BLOCK_SIZE_N"]


def align(ids: Tensor, block: int, experts: int, **_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Sort slots by expert, each expert's padded to whole blocks, as SGLang's CUDA kernel does."""
    flat = ids.flatten()
    order: list[int] = []
    owners: list[int] = []
    for expert in range(-1, experts):
        slots = (flat == expert).nonzero()[:, 0].tolist()
        padded = slots + [flat.numel()] * (-len(slots) % block)
        order += padded
        owners += [expert] * (len(padded) // block)
    return tuple(torch.tensor(part, dtype=torch.int32) for part in (order, owners, [len(order)]))  # type: ignore[return-value]


def stand_in_for_gpu() -> None:
    implementation = fused_moe.fused_experts_impl
    fused_moe.moe_align_block_size = align
    fused_moe.outplace_fused_experts = lambda *given, **named: implementation(
        *given[:7], False, *given[7:], **named
    )
    fused_moe_triton_config.get_device_name = lambda: "NVIDIA H200"
    tune._LARGEST_ERROR["fp8"] = 0.2
    tune.FP8_AXES = AXES
    real_call = kernel.experts_call

    def call_of(*given: Any) -> Callable[[], Tensor]:
        call, launch = real_call(*given), given[3]

        def run() -> Tensor:
            output = call()
            run.launch = launch  # type: ignore[attr-defined]
            return output * 1.3 if sizes(launch) == WRONG else output

        return run

    kernel.experts_call = call_of
    trial.time_call = lambda call, *_, **__: argparse.Namespace(median_s=TIMES[sizes(call.launch)] / 1e6)


def main(folder: Path) -> None:
    stand_in_for_gpu()
    args = argparse.Namespace(out=folder, tokens=[5], minutes=1.0, json=folder / "rows.jsonl")
    folder.mkdir()
    with torch.inference_mode(), kernel.sglang_configured():
        code = tune.tune(SHAPE, args, torch.device("cpu"), deadline=math.inf)
        lite = expert_shape(LITE, tp=2, ep=2, dtype="bf16")
        kernel.write_launches(kernel.config_file(lite, folder), {64: {"BLOCK_SIZE_M": 99}})
        os.environ["SGLANG_MOE_CONFIG_DIR"] = str(folder)
        w1, w2 = (4, 256, 256), (4, 256, 128)
        chosen = {
            tokens: fused_moe_triton_config.try_get_optimal_moe_config(
                w1, w2, 3, "fp8_w8a8", tokens, block_shape=[128, 128], return_down_config=True
            )
            for tokens in (5, 900)
        }
        default = kernel.default_launch(SHAPE, 1024)
        of_lite = fused_moe_triton_config.get_moe_configs(128, 1024, None)
    found = {"code": code, "chosen": chosen, "default": default, "of_lite": of_lite}
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
