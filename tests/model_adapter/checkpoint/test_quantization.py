"""quantization_config is read in every spelling, and an unknown one is not fatal."""

from typing import Any

import pytest

from serval_sglang.checkpoint.quantization import Quantization, read_quantization


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, Quantization("fp8", 8, None, (128, 128))),
        (
            {"quant_method": "auto-round", "bits": 4, "group_size": 128},
            Quantization("auto-round", 4, 128, None),
        ),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, Quantization("gptq", 8, None, None)),
        (
            {"config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}}},
            Quantization("compressed-tensors", 4, 32, None),
        ),
        ({"quant_method": "new", "weight_block_size": 128}, Quantization("new", None, None, None)),
        ({"quant_method": "new", "config_groups": {"a": None}}, Quantization("new", None, None, None)),
    ],
)
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_read_quantization_reads_every_method(
    key: str, stated: dict[str, Any], expected: Quantization
) -> None:
    assert read_quantization({key: stated}) == expected


@pytest.mark.parametrize("stated", [None, {}, [], "fp8"])
def test_read_quantization_returns_none_for_plain_model(stated: object) -> None:
    assert read_quantization({"quantization_config": stated}) is None
    assert read_quantization({}) is None
