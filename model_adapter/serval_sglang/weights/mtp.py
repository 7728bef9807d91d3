"""Tensors of the multi-token-prediction layer: checked, and unpacked whatever their format."""

from collections.abc import Iterable, Iterator

from torch import Tensor

from serval_sglang.checkpoint.fp8 import SCALE_SUFFIX, dequantize_blocks
from serval_sglang.checkpoint.layout import MTP_PREFIX, NO_MTP_LAYER, mtp_tensor_shapes
from serval_sglang.config import LongcatConfig
from serval_sglang.weights.ledger import CheckpointMismatch
from serval_sglang.weights.unpacking import Packing, is_layer, unpacked


def mtp_tensors(
    weights: Iterable[tuple[str, Tensor]],
    config: LongcatConfig,
    *,
    packing: Packing | None,
    block: tuple[int, int] | None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the layer's tensors under the checkpoint's names; packed ones and those in FP8 as float32.

    `packing` and `block`, the size of FP8's blocks, describe how the checkpoint stores linear layers; the
    layer itself may be stored without either.

    Raises `CheckpointMismatch` if one has another shape, or if all have been read and some are missing.
    """
    shapes = mtp_tensor_shapes(config)
    missing = set(shapes)
    own: Iterator[tuple[str, Tensor]] = (
        (name, tensor) for name, tensor in weights if name.startswith(MTP_PREFIX)
    )
    if packing is not None:
        own = unpacked(own, packing, of=is_layer)
    if block is not None:
        own = _dequantized(own, block)
    for name, tensor in own:
        if name not in shapes:
            raise CheckpointMismatch(f"the multi-token-prediction layer has no tensor {name}.")
        if tuple(tensor.shape) != shapes[name]:
            raise CheckpointMismatch(
                f"{name} has shape {tuple(tensor.shape)}, and config.json describes {shapes[name]}: do both "
                "belong to the same checkpoint?"
            )
        missing.discard(name)
        yield name, tensor
    if len(missing) == len(shapes):
        raise CheckpointMismatch(f"the checkpoint cannot be served with drafts: {NO_MTP_LAYER}.")
    if missing:
        raise CheckpointMismatch(f"the multi-token-prediction layer lacks {', '.join(sorted(missing))}.")


def _dequantized(
    weights: Iterable[tuple[str, Tensor]], block: tuple[int, int]
) -> Iterator[tuple[str, Tensor]]:
    """Yield layers in FP8 when both codes and scales have arrived, and all other tensors at once."""
    waiting: dict[str, Tensor] = {}
    for name, tensor in weights:
        is_scale = name.endswith(SCALE_SUFFIX)
        if not is_scale and tensor.element_size() > 1:
            yield name, tensor
            continue
        weight = f"{name.removesuffix(SCALE_SUFFIX)}.weight" if is_scale else name
        other = waiting.pop(weight, None)
        if other is None:
            waiting[weight] = tensor
        else:
            codes, scales = (other, tensor) if is_scale else (tensor, other)
            yield weight, dequantize_blocks(codes, scales, block)
