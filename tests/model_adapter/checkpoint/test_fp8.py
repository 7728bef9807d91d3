"""Block-wise FP8: written weights read back to within the rounding of the format."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from serval_sglang.checkpoint import load_state_dict, random_state_dict, save_checkpoint, tiny_config
from serval_sglang.checkpoint.fp8 import dequantize_blocks, is_quantized_layer, quantize_blocks
from serval_sglang.checkpoint.inspection import inspect_checkpoint

# No dimension is a multiple of 128, so that there are partial blocks at the edges.
CONFIG = tiny_config(num_layers=1, ffn_hidden_size=200, hidden_size=180)


@pytest.mark.parametrize("shape", [(128, 128), (1, 1), (129, 300), (256, 127)])
def test_quantize_blocks_rounds_like_e4m3(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator) * torch.logspace(-3, 3, shape[0])[:, None]
    codes, scales = quantize_blocks(weight)
    assert codes.dtype == torch.float8_e4m3fn
    assert scales.shape == ((shape[0] + 127) // 128, (shape[1] + 127) // 128)
    error = (dequantize_blocks(codes, scales) - weight).abs()
    # With three bits of mantissa half a step is 2^-4 of the number; subnormals have steps of 2^-9 of a scale.
    largest_scale = scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]
    assert (error <= weight.abs() * 2**-4 + largest_scale * 2**-10).all()


def test_quantize_blocks_keeps_largest_weight_and_zeros() -> None:
    weight = torch.zeros(200, 128)
    weight[3, 5] = -0.7
    codes, scales = quantize_blocks(weight)
    back = dequantize_blocks(codes, scales)
    assert back[3, 5].item() == pytest.approx(-0.7, rel=1e-6)
    assert back.count_nonzero() == 1


@pytest.mark.parametrize("size", [8.5e-43, 1e-44])
def test_quantize_blocks_stays_finite_at_limits_of_float32(size: float) -> None:
    back = dequantize_blocks(*quantize_blocks(torch.tensor([[size, -size]])))
    assert back.isfinite().all()
    assert (back.abs() <= 2 * size).all()


def test_fp8_checkpoint_reads_back(tmp_path: Path) -> None:
    weights = random_state_dict(CONFIG, seed=3)
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.bfloat16, fp8=True, max_shard_bytes=300_000)
    assert inspect_checkpoint(tmp_path).is_complete
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"] == "fp8"
    stored = {name: t for file in tmp_path.glob("*.safetensors") for name, t in load_file(file).items()}
    loaded = load_state_dict(tmp_path)
    assert list(loaded) == list(weights)
    for name, weight in weights.items():
        quantized = is_quantized_layer(name)
        assert (stored[name].dtype == torch.float8_e4m3fn) == quantized, name
        assert (f"{name.removesuffix('.weight')}.weight_scale_inv" in stored) == quantized, name
        spread = weight.std().item() if weight.numel() > 1 else 1.0
        assert (loaded[name].float() - weight).abs().max().item() <= 0.3 * spread, name


@pytest.mark.parametrize(
    "kept",
    [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.ngram_embeddings.embedders.0.weight",
        "model.ngram_embeddings.post_projs.0.weight",
        "model.layers.0.input_layernorm.0.weight",
        "model.layers.0.self_attn.1.q_a_layernorm.weight",
        "model.layers.0.mlp.router.classifier.weight",
        "model.layers.0.mlp.router.e_score_correction_bias",
    ],
)
def test_fp8_checkpoint_keeps_unquantised_parts(kept: str) -> None:
    assert not is_quantized_layer(kept)
