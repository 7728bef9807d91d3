"""SGLang's side: its experts' kernel with a given launch, its default launch, and the file that it reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
import triton
from sglang.srt.layers.moe.moe_runner import MoeRunnerConfig
from sglang.srt.layers.moe.moe_runner.triton_utils import fused_experts, override_config
from sglang.srt.layers.moe.moe_runner.triton_utils.fused_moe_triton_config import (
    get_config_dtype_str,
    get_config_file_name,
    get_default_config,
)
from sglang.srt.layers.moe.topk import StandardTopKOutput
from sglang.srt.runtime_context import get_context
from torch import Tensor

from serval_sglang.moe_tuning.experts import Experts, Shape, Tokens
from serval_sglang.moe_tuning.search import Launch
from serval_sglang.tuned_moe import version_folder


@contextmanager
def sglang_configured() -> Iterator[None]:
    """Give SGLang's functions the configuration that they ask for outside of an engine: its defaults."""
    with get_context().override_server_args():
        yield


def experts_call(shape: Shape, experts: Experts, tokens: Tokens, launch: Launch) -> Callable[[], Tensor]:
    """Return a call of both matrix products with `launch`, as the engine makes it, for [T, k, hidden].

    The sum over slots, on which a launch has no effect, is left out.
    """
    runner = MoeRunnerConfig(
        num_experts=shape.routed_experts,
        num_local_experts=shape.experts,
        inplace=False,
        no_combine=True,
        no_combine_keep_router_weight=True,
    )
    # Router logits are for other runners.
    chosen = StandardTopKOutput(tokens.weights, tokens.ids, tokens.weights)

    def call() -> Tensor:
        with override_config(dict(launch)):
            output: Tensor = fused_experts(
                tokens.hidden,
                experts.w13,
                experts.w2,
                chosen,
                runner,
                use_fp8_w8a8=shape.dtype == "fp8",
                w1_scale=experts.w13_scale,
                w2_scale=experts.w2_scale,
                block_shape=shape.block_shape,
            )
        return output

    return call


def default_launch(shape: Shape, tokens: int) -> Launch:
    """Return SGLang's launch for a batch of `tokens` if it finds no file."""
    launch: dict[str, int] = get_default_config(
        tokens,
        shape.experts,
        shape.width,
        shape.hidden,
        shape.top_k,
        _dtype_name(shape),
        is_marlin=False,
        block_shape=shape.block_shape,
    )
    return launch


def config_file(shape: Shape, folder: Path) -> Path:
    """Return the file below `folder` in which SGLang looks for launches for this shape on this GPU."""
    name: str = get_config_file_name(shape.experts, shape.width, _dtype_name(shape), shape.block_shape)
    return version_folder(folder, triton.__version__) / name


def read_launches(file: Path) -> dict[int, Launch]:
    """Return launches by number of tokens; none if there is no file."""
    if not file.exists():
        return {}
    return {int(tokens): launch for tokens, launch in json.loads(file.read_text(encoding="utf-8")).items()}


def write_launches(file: Path, launches: Mapping[int, Launch]) -> None:
    """Write the file as a whole, so that an engine never reads half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {str(tokens): dict(launches[tokens]) for tokens in sorted(launches)}
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    unfinished.replace(file)


def _dtype_name(shape: Shape) -> str | None:
    name: str | None = get_config_dtype_str(torch.bfloat16, use_fp8_w8a8=shape.dtype == "fp8")
    return name
