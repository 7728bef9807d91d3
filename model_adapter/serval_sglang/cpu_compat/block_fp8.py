"""Block-wise FP8 on a CPU: codes stay as SGLang has loaded them and are dequantised at every use.

SGLang supports such layers only on CPUs with AMX. This is slow but exact: it shows that a checkpoint's names,
scales and slices arrive where they belong.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from serval_sglang.checkpoint.fp8 import dequantize_blocks
from serval_sglang.cpu_compat.experts import sum_of_experts


def keep_codes(method: Any, layer: Any) -> None:
    """Replace the step that packs codes for AMX after loading; do nothing."""


def linear(method: Any, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Replace Fp8LinearMethod.apply; map [T, in] to [T, out]."""
    weight = dequantize_blocks(layer.weight, layer.weight_scale_inv, _block(method.weight_block_size))
    return F.linear(x, weight.to(x.dtype), bias)


def experts(method: Any, layer: Any, dispatch_output: Any) -> Any:
    """Replace Fp8MoEMethod.apply."""
    from sglang.srt.layers.moe.token_dispatcher import StandardCombineInput

    x, block = dispatch_output.hidden_states, _block(method.weight_block_size)

    def weights_of(expert: int) -> tuple[Tensor, Tensor]:
        gates_and_ups = dequantize_blocks(layer.w13_weight[expert], layer.w13_weight_scale_inv[expert], block)
        downs = dequantize_blocks(layer.w2_weight[expert], layer.w2_weight_scale_inv[expert], block)
        return gates_and_ups.to(x.dtype), downs.to(x.dtype)

    summed = sum_of_experts(weights_of, x, dispatch_output.topk_output, method.moe_runner_config)
    return StandardCombineInput(hidden_states=summed)


def expanded(codes: Tensor, scales: Tensor, block: list[int]) -> tuple[Tensor, None]:
    """Replace block_quant_to_tensor_quant, which rounds the attention's second projection once more; return
    the weight in the model's dtype and no scale."""
    return dequantize_blocks(codes, scales, _block(block)).to(torch.get_default_dtype()), None


_METHODS = "sglang.srt.layers.quantization.fp8"

REPLACED: Mapping[str, Any] = {
    f"{_METHODS}.Fp8LinearMethod.process_weights_after_loading_block_quant": keep_codes,
    f"{_METHODS}.Fp8LinearMethod.apply": linear,
    f"{_METHODS}.Fp8MoEMethod.process_weights_after_loading_block_quant": keep_codes,
    f"{_METHODS}.Fp8MoEMethod.apply": experts,
    "sglang.srt.models.longcat_flash.block_quant_to_tensor_quant": expanded,
}


def _block(sizes: list[int]) -> tuple[int, int]:
    rows, columns = sizes
    return rows, columns
