"""Random checkpoints are suitable for tests: nothing in them is degenerate, and they are reproducible."""

import pytest
import torch

from serval_sglang.checkpoint import mtp_tensor_shapes, random_state_dict, tensor_shapes, tiny_config
from serval_sglang.reference import ReferenceModel


def random_model(seed: int, **overrides: int) -> ReferenceModel:
    config = tiny_config(**overrides)
    model = ReferenceModel(config)
    model.load_state_dict(random_state_dict(config, seed=seed))
    return model


def random_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, tiny_config().vocab_size, shape, generator=torch.Generator().manual_seed(3))


def test_tiny_config_exposes_wrong_code() -> None:
    config = tiny_config()
    assert config.ngram_table_count == 12
    assert config.vocab_size & (config.vocab_size - 1) != 0
    assert config.hidden_size % 256 != 0
    assert config.v_head_dim not in (config.qk_nope_head_dim, config.qk_head_dim)
    assert config.rope_scaling is not None
    assert config.rope_scaling.original_max_position_embeddings < config.max_position_embeddings / 2


def test_random_state_dict_depends_only_on_seed() -> None:
    first, again, other = (random_state_dict(tiny_config(), seed=seed) for seed in (1, 1, 2))
    assert {name: tuple(w.shape) for name, w in first.items()} == tensor_shapes(tiny_config())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_random_state_dict_adds_mtp_layer_beside_same_weights() -> None:
    plain, with_mtp = (random_state_dict(tiny_config(), seed=1, mtp=mtp) for mtp in (False, True))
    assert all(torch.equal(with_mtp[name], tensor) for name, tensor in plain.items())
    added = {name: tuple(with_mtp[name].shape) for name in with_mtp.keys() - plain.keys()}
    assert added == mtp_tensor_shapes(tiny_config())
    norms = [with_mtp[name] for name in added if "norm" in name]
    assert len(norms) == 7
    assert all(norm.std() > 0.1 for norm in norms), "norms of 1 would hide one that is left out"


@pytest.mark.parametrize("seed", [0, 1, 2])
@torch.no_grad()
def test_random_weights_spread_logits_and_use_every_kind_of_expert(seed: int) -> None:
    model = random_model(seed)
    output = model.run(random_tokens(4, 100))
    assert 0.5 < output.logits.std() < 2
    assert output.logits.argmax(-1).unique().numel() > 100
    for routing in output.routing:
        identity_share = (routing.expert_ids >= model.config.n_routed_experts).float().mean()
        assert 0.1 < identity_share < 0.7
        assert routing.expert_ids.unique().numel() == model.config.num_experts_total


@torch.no_grad()
def test_random_weights_make_every_tensor_matter() -> None:
    model = random_model(0, num_layers=1, n_routed_experts=4, zero_expert_num=2, moe_topk=3)
    tokens = random_tokens(1, 60)
    before = model(tokens)
    generator = torch.Generator().manual_seed(4)
    still = []
    for name, tensor in model.state_dict().items():
        original = tensor.clone()
        # A common factor would be undone by the norm after it.
        tensor.mul_(torch.rand(tensor.shape, generator=generator))
        if (model(tokens) - before).abs().max() < 1e-3:
            still.append(name)
        tensor.copy_(original)
    assert still == []
