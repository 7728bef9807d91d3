"""Properties of the reference model that need no other implementation."""

import copy

import pytest
import torch
from torch import Tensor

from serval_sglang.checkpoint import random_state_dict, tensor_shapes, tiny_config
from serval_sglang.config import LongcatConfig
from serval_sglang.reference import ReferenceModel

CONFIG = tiny_config()
# The same sums in another order.
ROUNDING = {"atol": 5e-5, "rtol": 0.0}


def model_with(weights: dict[str, Tensor], config: LongcatConfig = CONFIG) -> ReferenceModel:
    model = ReferenceModel(config)
    model.load_state_dict(weights)
    return model


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_state_dict(CONFIG, seed=0)


@pytest.fixture(scope="module")
def model(weights: dict[str, Tensor]) -> ReferenceModel:
    return model_with(weights)


def random_tokens(*shape: int) -> Tensor:
    return torch.randint(0, CONFIG.vocab_size, shape, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("config", [CONFIG, tiny_config(emb_split_num=2, zero_expert_num=0, num_layers=1)])
def test_state_dict_has_checkpoint_layout(config: LongcatConfig) -> None:
    state = {name: tuple(tensor.shape) for name, tensor in ReferenceModel(config).state_dict().items()}
    assert state == tensor_shapes(config)


@torch.no_grad()
def test_model_is_causal(model: ReferenceModel) -> None:
    tokens = random_tokens(1, 40)
    changed = tokens.clone()
    changed[0, 25] = (tokens[0, 25] + 1) % CONFIG.vocab_size
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :25], after[:, :25], **ROUNDING)
    assert (before[:, 25:] - after[:, 25:]).abs().amax(-1).min() > 1e-2


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_model_ignores_padding(model: ReferenceModel, side: str) -> None:
    lengths = [30, 1, 17]
    rows = [random_tokens(1, length) for length in lengths]
    batch, mask = torch.full((3, 33), 3), torch.zeros(3, 33, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(0, row.shape[1]) if side == "right" else slice(33 - row.shape[1], 33)
        batch[i, place], mask[i, place] = row, True
    logits = model(batch, attention_mask=mask.long())
    for i, row in enumerate(rows):
        torch.testing.assert_close(logits[i, mask[i]], model(row)[0], **ROUNDING)


@torch.no_grad()
def test_model_computes_in_full_precision_on_rounded_weights(weights: dict[str, Tensor]) -> None:
    rounded = {name: weight.bfloat16() for name, weight in weights.items()}
    stored = ReferenceModel(CONFIG).bfloat16()
    stored.load_state_dict(rounded)
    tokens = random_tokens(2, 40)
    widened = model_with({name: weight.float() for name, weight in rounded.items()})
    assert stored.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(stored(tokens), widened(tokens))


@torch.no_grad()
def test_model_in_float64_differs_only_by_rounding(model: ReferenceModel, weights: dict[str, Tensor]) -> None:
    exact = ReferenceModel(CONFIG, compute_dtype=torch.float64)
    exact.load_state_dict(weights)
    tokens = random_tokens(2, 40)
    assert exact(tokens).dtype == torch.float64
    torch.testing.assert_close(exact(tokens).float(), model(tokens), **ROUNDING)


@torch.no_grad()
def test_latent_scaling_is_factor_on_latent_norms(weights: dict[str, Tensor]) -> None:
    folded = copy.deepcopy(weights)
    for name, weight in folded.items():
        if name.endswith("q_a_layernorm.weight"):
            weight.mul_((CONFIG.hidden_size / CONFIG.q_lora_rank) ** 0.5)
        if name.endswith("kv_a_layernorm.weight"):
            weight.mul_((CONFIG.hidden_size / CONFIG.kv_lora_rank) ** 0.5)
    unscaled = tiny_config(mla_scale_q_lora=False, mla_scale_kv_lora=False)
    tokens = random_tokens(2, 40)
    scaled_logits = model_with(weights)(tokens)
    torch.testing.assert_close(model_with(folded, unscaled)(tokens), scaled_logits, **ROUNDING)
    assert (model_with(weights, unscaled)(tokens) - scaled_logits).abs().max() > 0.1


def test_model_gives_every_weight_a_gradient() -> None:
    config = tiny_config(num_layers=2)
    model = model_with(random_state_dict(config, seed=1), config)
    tokens = random_tokens(2, 200)
    logits = model(tokens[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@torch.no_grad()
def test_router_bias_selects_without_weighing(weights: dict[str, Tensor]) -> None:
    favoured = CONFIG.n_routed_experts  # the first identity expert
    biased = copy.deepcopy(weights)
    for name, weight in biased.items():
        if name.endswith("e_score_correction_bias"):
            weight[favoured] = 10.0
    tokens = random_tokens(2, 20)
    output = model_with(biased).run(tokens)
    assert len(output.routing) == CONFIG.num_layers
    for routing in output.routing:
        assert routing.expert_ids.shape == routing.weights.shape == (2, 20, CONFIG.moe_topk)
        assert routing.scores.shape == (2, 20, CONFIG.num_experts_total)
        torch.testing.assert_close(routing.scores.sum(-1), torch.ones(2, 20))
        assert (routing.expert_ids == favoured).any(-1).all()
        chosen_scores = routing.scores.gather(-1, routing.expert_ids)
        torch.testing.assert_close(routing.weights, chosen_scores * CONFIG.routed_scaling_factor)
    # The first layer's scores are computed before the bias has any effect.
    torch.testing.assert_close(output.routing[0].scores, model_with(weights).run(tokens).routing[0].scores)


@torch.no_grad()
def test_moe_returns_weighted_token_for_identity_experts() -> None:
    config = tiny_config(zero_expert_num=24)
    experts = model_with(random_state_dict(config, seed=2), config).model.layers[0].mlp
    experts.router.e_score_correction_bias[: config.n_routed_experts] = -10.0
    x = torch.randn(3, 7, config.hidden_size, generator=torch.Generator().manual_seed(0))
    output, routing = experts(x)
    torch.testing.assert_close(output, x * routing.weights.sum(-1, keepdim=True))
