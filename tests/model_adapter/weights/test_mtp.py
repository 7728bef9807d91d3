"""The MTP layer's tensors: exact ones pass, packed and FP8 ones are unpacked, anything else is refused."""

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from serval_sglang.checkpoint.fp8 import BLOCK, SCALE_SUFFIX, dequantize_blocks, quantize_blocks
from serval_sglang.checkpoint.layout import mtp_tensor_shapes
from serval_sglang.checkpoint.random import random_state_dict
from serval_sglang.known_configs import TINY
from serval_sglang.weights.ledger import CheckpointMismatch
from serval_sglang.weights.mtp import mtp_tensors

PROJECTION = "model.mtp.layers.0.eh_proj.weight"
STORED = random_state_dict(TINY, seed=0, mtp=True)


def loaded(weights: Iterable[tuple[str, Tensor]], block: tuple[int, int] | None = None) -> dict[str, Tensor]:
    return dict(mtp_tensors(weights, TINY, packing=None, block=block))


def test_mtp_tensors_are_the_layers_alone() -> None:
    found = loaded(STORED.items())
    assert found.keys() == mtp_tensor_shapes(TINY).keys()
    assert all(tensor is STORED[name] for name, tensor in found.items())


@pytest.mark.parametrize("scales_first", [False, True])
def test_mtp_tensors_in_fp8_are_dequantised(*, scales_first: bool) -> None:
    codes, scales = quantize_blocks(STORED[PROJECTION])
    parts = [(PROJECTION, codes), (PROJECTION.removesuffix(".weight") + SCALE_SUFFIX, scales)]
    others = [(name, tensor) for name, tensor in STORED.items() if name != PROJECTION]
    found = loaded([*(parts[::-1] if scales_first else parts), *others], block=BLOCK)
    assert torch.equal(found[PROJECTION], dequantize_blocks(codes, scales))


def test_mtp_tensors_without_the_layer_say_so_in_one_sentence() -> None:
    plain = random_state_dict(TINY, seed=0)
    with pytest.raises(
        CheckpointMismatch, match="cannot be served with drafts: it has no multi-token-prediction"
    ):
        loaded(plain.items())


def test_mtp_tensors_name_a_missing_one() -> None:
    rest = {name: tensor for name, tensor in STORED.items() if name != PROJECTION}
    with pytest.raises(CheckpointMismatch, match=rf"^the multi-token-prediction layer lacks {PROJECTION}\.$"):
        loaded(rest.items())


def test_mtp_tensors_name_one_of_another_shape() -> None:
    with pytest.raises(CheckpointMismatch, match=rf"{PROJECTION} has shape \(96, 96\)"):
        loaded({**STORED, PROJECTION: STORED[PROJECTION][:, :96]}.items())


def test_mtp_tensors_name_an_unknown_one() -> None:
    with pytest.raises(CheckpointMismatch, match=r"has no tensor model\.mtp\.shared_head\.weight"):
        loaded({**STORED, "model.mtp.shared_head.weight": torch.ones(1)}.items())
