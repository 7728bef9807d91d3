"""Weights for a model without a checkpoint that spread tokens over all experts.

SGLang's dummy weights, norms included, are within 1e-3 of zero, so every token goes to the same few experts
and a batch reads only a fraction of the weights that it would read in production.
"""

import torch
from torch import Tensor, nn

_STD = 0.02
# FP8 codes are drawn with this deviation and scaled to `_STD`: 448, their largest, is seven deviations away.
_CODE_STD = 64.0
_BLOCK_ROWS = 65_537  # larger tables repeat a block of random rows, which is faster to fill
_GENERATOR_SEED = 0


def fill_randomly(model: nn.Module, *_: object, **__: object) -> None:
    """Replace `initialize_dummy_weights`: matrices are normally distributed, norms one, biases zero.

    N-gram tables get the same values on a device and on the host, so that their answers can be compared.
    """
    for name, tensor in model.state_dict().items():
        if name.endswith("weight_scale_inv"):
            tensor.fill_(_STD / _CODE_STD)
        elif tensor.dim() >= 2:
            is_table = name.endswith("ngram_tables.values")
            _fill_rows(tensor, torch.device("cpu") if is_table else tensor.device)
        elif name.endswith("ngram_tables.scales"):
            tensor.fill_(_STD / 127)
        elif tensor.is_floating_point():
            tensor.fill_(0.0 if name.endswith("bias") else 1.0)


def _fill_rows(tensor: Tensor, drawn_on: torch.device) -> None:
    generator = torch.Generator(device=drawn_on).manual_seed(_GENERATOR_SEED)
    first = tensor[:_BLOCK_ROWS]
    if tensor.dtype == torch.int8:
        codes = torch.empty(first.shape, dtype=torch.int8, device=drawn_on)
        first.copy_(codes.random_(-127, 128, generator=generator))
    elif tensor.is_floating_point():
        values = torch.empty(first.shape, dtype=torch.float32, device=drawn_on)
        is_coded = tensor.dtype == torch.float8_e4m3fn
        values.normal_(0.0, _CODE_STD if is_coded else _STD, generator=generator)
        first.copy_(values)
    for start in range(_BLOCK_ROWS, len(tensor), _BLOCK_ROWS):
        block = tensor[start : start + _BLOCK_ROWS]
        block.copy_(first[: len(block)])
