"""The reference's sparse attention against a computation query by query, and its properties."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from serval_sglang.checkpoint import random_state_dict, tensor_shapes
from serval_sglang.config import LongcatConfig, SparseAttention
from serval_sglang.known_configs import TINY_SPARSE
from serval_sglang.reference import ReferenceModel
from serval_sglang.reference.rope import inverse_frequencies
from serval_sglang.reference.sparse import chosen_keys

CONFIG = replace(TINY_SPARSE, num_layers=1)
assert CONFIG.sparse_attention is not None
SPARSE = CONFIG.sparse_attention
LENGTH = 80
ROUNDING = {"atol": 1e-9, "rtol": 0.0}


def made(config: LongcatConfig, weights: dict[str, Tensor]) -> ReferenceModel:
    """A model in float64, with those of `weights` that it has."""
    model = ReferenceModel(config, compute_dtype=torch.float64)
    model.load_state_dict({name: weights[name] for name in tensor_shapes(config)})
    return model.eval()


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_state_dict(TINY_SPARSE, seed=5)


def random_tokens(*shape: int) -> Tensor:
    return torch.randint(3, CONFIG.vocab_size, shape, generator=torch.Generator().manual_seed(11))


def turned(vector: Tensor, position: int, config: LongcatConfig, *, interleaved: bool) -> Tensor:
    """Rotate the first qk_rope_head_dim values of `vector`, as complex numbers."""
    size = config.qk_rope_head_dim
    rotated, kept = vector[:size], vector[size:]
    pairs = rotated.reshape(-1, 2) if interleaved else rotated.reshape(2, -1).T
    angles = position * inverse_frequencies(config, dtype=torch.float64)
    numbers = torch.complex(pairs[:, 0], pairs[:, 1]) * torch.polar(torch.ones_like(angles), angles)
    pairs = torch.view_as_real(numbers)
    return torch.cat((pairs.reshape(-1) if interleaved else pairs.T.reshape(-1), kept))


class ByHand:
    """One layer's two attentions, a query at a time, in float64."""

    def __init__(self, weights: dict[str, Tensor], config: LongcatConfig) -> None:
        self.weights, self.config = weights, config

    def linear(self, block: int, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"model.layers.0.self_attn.{block}.{name}.weight"].double().T

    def norm(self, block: int, name: str, x: Tensor) -> Tensor:
        gain = self.weights[f"model.layers.0.self_attn.{block}.{name}.weight"].double()
        return x / (x.square().mean() + 1e-6).sqrt() * gain

    def chosen(self, inputs: Tensor, query: int) -> list[int]:
        """Positions that `query` attends to, by sorting the scores of all positions up to it."""
        sparse = self.config.sparse_attention
        assert sparse is not None
        interleaved = sparse.indexer_rope_interleave
        latent = self.norm(0, "q_a_layernorm", self.linear(0, "q_a_proj", inputs[query]))
        heads = self.linear(0, "indexer.wq_b", latent).reshape(sparse.index_n_heads, -1)
        heads = torch.stack([turned(head, query, self.config, interleaved=interleaved) for head in heads])
        head_weights = self.linear(0, "indexer.weights_proj", inputs[query])
        scores = {}
        for position in range(query + 1):
            key = self.norm(0, "indexer.k_norm", self.linear(0, "indexer.wk", inputs[position]))
            key = turned(key, position, self.config, interleaved=interleaved)
            score = (head_weights * (heads @ key).clamp(min=0)).sum().item()
            is_sink = position < sparse.index_init_tokens
            is_local = position > query - sparse.index_local_tokens
            scores[position] = math.inf if is_sink or is_local else score
        return sorted(scores, key=lambda position: -scores[position])[: sparse.index_topk]

    def attended(self, block: int, inputs: Tensor, query: int, positions: list[int]) -> Tensor:
        """Output for `query` of an attention to `positions` only."""
        c = self.config
        latent = self.norm(block, "q_a_layernorm", self.linear(block, "q_a_proj", inputs[query]))
        queries = self.linear(block, "q_b_proj", latent).reshape(c.num_attention_heads, -1) * c.q_lora_scale
        keys, values = [], []
        for position in positions:
            pair = self.linear(block, "kv_a_proj_with_mqa", inputs[position])
            compressed = self.norm(block, "kv_a_layernorm", pair[: c.kv_lora_rank]) * c.kv_lora_scale
            both = self.linear(block, "kv_b_proj", compressed).reshape(c.num_attention_heads, -1)
            rotary = turned(pair[c.kv_lora_rank :], position, c, interleaved=True)
            shared = rotary.expand(c.num_attention_heads, -1)
            keys.append(torch.cat((both[:, : c.qk_nope_head_dim], shared), dim=-1))
            values.append(both[:, c.qk_nope_head_dim :])
        outputs = []
        for head, head_query in enumerate(queries):
            plain, rotary = head_query[: c.qk_nope_head_dim], head_query[c.qk_nope_head_dim :]
            whole = torch.cat((plain, turned(rotary, query, c, interleaved=True)))
            logits = torch.stack([key[head] @ whole for key in keys]) * c.softmax_scale
            outputs.append(logits.softmax(0) @ torch.stack([value[head] for value in values]))
        return self.linear(block, "o_proj", torch.cat(outputs))


@pytest.mark.parametrize("interleaved", [False, True])
@torch.no_grad()
def test_attentions_equal_those_of_chosen_positions_only(
    weights: dict[str, Tensor], interleaved: bool
) -> None:
    config = replace(CONFIG, sparse_attention=replace(SPARSE, indexer_rope_interleave=interleaved))
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    model = made(config, weights)
    for attention in model.model.layers[0].self_attn:
        attention.register_forward_hook(
            lambda _, arguments, output: (inputs.append(arguments[0][0]), outputs.append(output[0]), None)[-1]
        )
    model(random_tokens(1, LENGTH))
    by_hand = ByHand(weights, config)
    for query in (47, 48, LENGTH - 1):
        positions = by_hand.chosen(inputs[0], query)
        assert len(positions) == min(query + 1, SPARSE.index_topk)
        for block in range(2):
            expected = by_hand.attended(block, inputs[block], query, positions)
            torch.testing.assert_close(outputs[block][query], expected, **ROUNDING)


@torch.no_grad()
def test_pairing_of_rotated_dimensions_changes_the_choice(weights: dict[str, Tensor]) -> None:
    tokens = random_tokens(1, LENGTH)
    interleaved = replace(CONFIG, sparse_attention=replace(SPARSE, indexer_rope_interleave=True))
    halves, pairs = (made(config, weights)(tokens) for config in (CONFIG, interleaved))
    torch.testing.assert_close(halves[:, : SPARSE.index_topk], pairs[:, : SPARSE.index_topk], **ROUNDING)
    assert (halves - pairs).abs().max() > 0.01


@torch.no_grad()
def test_model_is_dense_up_to_the_number_of_chosen_tokens(weights: dict[str, Tensor]) -> None:
    tokens = random_tokens(1, 2 * SPARSE.index_topk)
    dense = made(replace(TINY_SPARSE, sparse_attention=None), weights)(tokens)
    sparse = made(TINY_SPARSE, weights)(tokens)
    within = slice(0, SPARSE.index_topk)
    torch.testing.assert_close(sparse[:, within], dense[:, within], **ROUNDING)
    beyond = (sparse - dense)[:, SPARSE.index_topk :].abs().amax(-1)
    assert beyond.min() > 1e-4
    assert beyond.mean() > 0.05


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_counts_neither_as_a_first_token_nor_among_the_chosen(
    weights: dict[str, Tensor], side: str
) -> None:
    model = made(CONFIG, weights)
    tokens = random_tokens(1, LENGTH)
    padding = tokens.new_full((1, 9), 3)
    real = torch.ones_like(tokens)
    if side == "left":
        padded, mask = torch.cat((padding, tokens), 1), torch.cat((0 * padding, real), 1)
        got = model(padded, attention_mask=mask)[:, 9:]
    else:
        padded, mask = torch.cat((tokens, padding), 1), torch.cat((real, 0 * padding), 1)
        got = model(padded, attention_mask=mask)[:, :-9]
    torch.testing.assert_close(got, model(tokens), **ROUNDING)


def test_chosen_keys_are_sink_window_and_best_of_the_rest() -> None:
    sparse = SparseAttention(
        index_n_heads=1, index_head_dim=2, index_topk=5, index_init_tokens=1, index_local_tokens=2
    )
    scores = torch.tensor([-9.0, 5.0, 7.0, -2.0, 8.0, -8.0, -7.0, 99.0]).expand(1, 8, 8)
    visible = torch.ones(1, 8, 8, dtype=torch.bool).tril()
    chosen = chosen_keys(scores, visible, sparse)[0]
    assert chosen[6].nonzero().flatten().tolist() == [0, 2, 4, 5, 6]
    assert chosen[3].nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert chosen.sum(-1).tolist() == [1, 2, 3, 4, 5, 5, 5, 5]


@torch.no_grad()
def test_word_rows_are_added_whole_only_where_the_configuration_says_so(weights: dict[str, Tensor]) -> None:
    tokens = random_tokens(1, 6)
    whole = made(CONFIG, weights)
    mean = made(replace(CONFIG, full_word_embedding=False), weights)
    words = weights["model.embed_tokens.weight"][tokens].double()
    difference = whole.model.embed(tokens, dtype=torch.float64) - mean.model.embed(
        tokens, dtype=torch.float64
    )
    torch.testing.assert_close(difference, words * (1 - 1 / 13), **ROUNDING)
