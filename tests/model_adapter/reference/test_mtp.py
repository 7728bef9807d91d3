"""The MTP layer of the reference: names of checkpoints, causality, and that every tensor and input counts."""

import pytest
import torch
from torch import Tensor

from serval_sglang.checkpoint import mtp_tensor_shapes, random_state_dict, tiny_config
from serval_sglang.config import LongcatConfig
from serval_sglang.reference import MtpLayer
from serval_sglang.reference.rope import rotation

CONFIG = tiny_config(num_layers=1)
PREFIX = "model.mtp."


@pytest.fixture
def layer() -> MtpLayer:
    made = MtpLayer(CONFIG)
    weights = random_state_dict(CONFIG, seed=4, mtp=True)
    own = {name.removeprefix(PREFIX): weights[name] for name in weights if name.startswith(PREFIX)}
    made.load_state_dict(own)
    return made.eval()


def inputs(length: int = 20) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, CONFIG.vocab_size, (2, length), generator=generator)
    return tokens, torch.randn(2, length, CONFIG.hidden_size, generator=generator)


@pytest.mark.parametrize("config", [CONFIG, tiny_config(mla_scale_q_lora=False)])
def test_mtp_layer_has_checkpoint_layout(config: LongcatConfig) -> None:
    state = {PREFIX + name: tuple(tensor.shape) for name, tensor in MtpLayer(config).state_dict().items()}
    assert state == mtp_tensor_shapes(config)


@torch.no_grad()
def test_mtp_layer_is_causal_in_both_inputs(layer: MtpLayer) -> None:
    tokens, hidden = inputs()
    before = layer(tokens, hidden)
    for changed in (tokens.clone(), hidden.clone()):
        changed[:, 12] = changed[:, 12].flip(0) if changed is hidden else (changed[:, 12] + 1) % 300
        after = layer(changed, hidden) if changed.dim() == 2 else layer(tokens, changed)
        torch.testing.assert_close(after[:, :12], before[:, :12], atol=5e-5, rtol=0)
    changed = tokens.clone()
    changed[:, 12] = (tokens[:, 12] + 1) % CONFIG.vocab_size
    assert (layer(changed, hidden) - before)[:, 12:].abs().amax(-1).min() > 1e-3


@torch.no_grad()
def test_mtp_layer_follows_formula_step_by_step(layer: MtpLayer) -> None:
    """The formula once more, by F.rms_norm and explicit products."""
    tokens, hidden = inputs()
    weights, eps = layer.state_dict(), CONFIG.rms_norm_eps

    def norm(x: Tensor, name: str) -> Tensor:
        return torch.nn.functional.rms_norm(x, (CONFIG.hidden_size,), weights[f"{name}.weight"], eps)

    block = "layers.0"
    embedded = norm(weights["embed_tokens.weight"][tokens], f"{block}.enorm.m")
    joined = torch.cat((embedded, norm(hidden, f"{block}.hnorm.m")), dim=-1)
    u = joined @ weights[f"{block}.eh_proj.weight"].T
    rope = rotation(torch.arange(tokens.shape[1]), CONFIG, dtype=torch.float32)
    a = u + layer.layers[0].self_attn(norm(u, f"{block}.input_layernorm"), rope, None)
    y = norm(a, f"{block}.post_attention_layernorm")
    mlp = f"{block}.transformer_layer.mlp"
    gate, up = y @ weights[f"{mlp}.gate_proj.weight"].T, y @ weights[f"{mlp}.up_proj.weight"].T
    m = a + (torch.nn.functional.silu(gate) * up) @ weights[f"{mlp}.down_proj.weight"].T
    torch.testing.assert_close(layer(tokens, hidden), norm(m, "norm"), atol=5e-5, rtol=0)


def test_mtp_layer_gives_every_weight_a_gradient(layer: MtpLayer) -> None:
    (layer(*inputs(200)) * torch.randn(CONFIG.hidden_size)).sum().backward()
    without = [name for name, p in layer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
