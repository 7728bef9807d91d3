"""The reference model against transformers' LongcatFlash.

transformers has no n-gram embedding: it is computed here from the formula, token by token, and passed as
`inputs_embeds`.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import LongcatFlashConfig, LongcatFlashForCausalLM

from serval_sglang.checkpoint import random_state_dict, tiny_config
from serval_sglang.config import LongcatConfig, YarnScaling
from serval_sglang.known_configs import TINY_FLASH
from serval_sglang.reference import ReferenceModel

# Logits have a standard deviation of 1. Rounding gives about 1e-5.
LOGIT_TOLERANCE = 1e-4
# Scores differ by rounding of about 1e-7: between experts closer than this, either may be chosen.
NEAR_TIE = 1e-5

YARN = YarnScaling(factor=10.0, original_max_position_embeddings=64)
BEYOND_64 = tiny_config(rope_scaling=YARN, max_position_embeddings=640)


def embed_by_formula(tokens: list[int], weights: dict[str, Tensor], config: LongcatConfig) -> Tensor:
    """Return the mean of the word's row and the projected row of each n-gram table, [T, H]."""
    rows = []
    document: list[int] = []
    for token in tokens:
        document.append(token)
        terms = [weights["model.embed_tokens.weight"][token]]
        for table in range(config.ngram_table_count):
            newest_first = document[::-1][: 2 + table // config.emb_split_num]
            modulus = config.ngram_base + 2 * table + 1
            row = sum(x * config.vocab_size**d for d, x in enumerate(newest_first)) % modulus
            prefix = "model.ngram_embeddings"
            projection = weights[f"{prefix}.post_projs.{table}.weight"]
            terms.append(projection @ weights[f"{prefix}.embedders.{table}.weight"][row])
        rows.append(torch.stack(terms).mean(0))
        if token == config.eos_token_id:
            document = []
    return torch.stack(rows)


def transformers_model(weights: dict[str, Tensor], config: LongcatConfig) -> LongcatFlashForCausalLM:
    ours_only = {
        "architectures",
        "emb_neighbor_num",
        "emb_split_num",
        "mla_scale_kv_lora",
        "mla_scale_q_lora",
        "ngram_vocab_size_ratio",
        "norm_topk_prob",
        "rope_scaling",
        "rope_theta",
        "router_bias",
        "zero_expert_type",
    }
    shared = {name: value for name, value in config.to_dict().items() if name not in ours_only}
    rope = config.to_dict()["rope_scaling"] or {"rope_type": "default"}
    model = LongcatFlashForCausalLM(
        LongcatFlashConfig(
            **shared,
            head_dim=config.qk_rope_head_dim,
            rope_parameters={**rope, "rope_theta": config.rope_theta},
        )
    )
    theirs = {
        name: w for name, w in weights.items() if ".ngram_embeddings." not in name and ".experts." not in name
    }
    for layer in range(config.num_layers):
        prefix = f"model.layers.{layer}.mlp.experts"
        experts = [f"{prefix}.{expert}" for expert in range(config.n_routed_experts)]
        gate_up = torch.zeros_like(model.get_parameter(f"{prefix}.gate_up_proj"))  # identity experts included
        for number, expert in enumerate(experts):
            gate_up[number] = torch.cat(
                (weights[f"{expert}.gate_proj.weight"], weights[f"{expert}.up_proj.weight"])
            )
        theirs[f"{prefix}.gate_up_proj"] = gate_up
        theirs[f"{prefix}.down_proj"] = torch.stack(
            [weights[f"{expert}.down_proj.weight"] for expert in experts]
        )
    model.load_state_dict(theirs)
    return model.eval()


def narrowest_choice(model: ReferenceModel, tokens: Tensor) -> float:
    """Return the smallest gap between the last chosen and the first rejected expert in any layer."""
    distances = []
    for layer, routing in zip(model.model.layers, model.run(tokens).routing, strict=True):
        biased = (routing.scores + layer.mlp.router.e_score_correction_bias).sort(descending=True).values
        top_k = model.config.moe_topk
        distances.append((biased[..., top_k - 1] - biased[..., top_k]).min().item())
    return min(distances)


CASES = {
    "yarn, seed 2": (BEYOND_64, 2),
    "yarn, seed 3": (BEYOND_64, 3),
    "yarn, seed 8": (BEYOND_64, 8),
    "plain rope": (tiny_config(rope_scaling=None), 3),
    "uneven mscale": (replace(BEYOND_64, rope_scaling=replace(YARN, mscale=0.5, mscale_all_dim=0.8)), 2),
    "large base, wide ramp": (
        tiny_config(
            rope_theta=5e6,
            qk_rope_head_dim=32,
            rope_scaling=YarnScaling(4.0, 64, beta_fast=4.0, beta_slow=0.25),
            max_position_embeddings=256,
        ),
        1,
    ),
    "bigrams, one table": (tiny_config(emb_neighbor_num=2, emb_split_num=1, num_layers=1), 1),
    "no n-grams": (TINY_FLASH, 2),
    "no identity experts": (tiny_config(zero_expert_num=0, num_layers=2), 2),
}


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_agree_with_transformers(name: str) -> None:
    config, seed = CASES[name]
    assert logit_difference(random_state_dict(config, seed=seed), config, seed) <= LOGIT_TOLERANCE


@torch.no_grad()
def test_logits_agree_if_eps_of_latent_norms_matters() -> None:
    seed = 1
    weights = random_state_dict(BEYOND_64, seed=seed)
    for name, weight in weights.items():
        # A latent of 1e-3 has a mean square of 1e-6, the eps itself.
        if name.endswith("q_a_proj.weight"):
            weight.mul_(1e-3)
        if name.endswith("kv_a_proj_with_mqa.weight"):
            weight[: BEYOND_64.kv_lora_rank].mul_(1e-3)
    assert logit_difference(weights, BEYOND_64, seed) <= LOGIT_TOLERANCE


def logit_difference(weights: dict[str, Tensor], config: LongcatConfig, seed: int) -> float:
    """Return the maximum over two sequences with end-of-sequence tokens inside, 150 positions each."""
    generator = torch.Generator().manual_seed(1000 + seed)
    tokens = torch.randint(0, config.vocab_size, (2, 150), generator=generator)
    tokens[0, [7, 40, 41, 90]] = config.eos_token_id
    model = ReferenceModel(config)
    model.load_state_dict(weights)
    assert narrowest_choice(model, tokens) > NEAR_TIE, (
        "rounding could change a choice of experts: use another seed"
    )

    embedded = torch.stack([embed_by_formula(row, weights, config) for row in tokens.tolist()])
    theirs = transformers_model(weights, config)(inputs_embeds=embedded).logits
    ours = model(tokens)
    assert ours.std() > 0.5
    difference = (ours - theirs).abs().max().item()
    print(f"max abs difference {difference:.2e}")
    return difference
