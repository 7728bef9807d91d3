"""Transformers' model against the reference: logits, `generate()` in its forms, padding, placing, saving.

The engine is compared with the same reference (tests/model_adapter/test_engine_matches_reference.py).
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from serval_sglang.checkpoint.io import load_reference
from serval_sglang.checkpoint.tiny import write_tiny_checkpoint
from serval_sglang.config import LongcatConfig, YarnScaling
from serval_sglang.transformers import LongcatFlashNgramConfig, LongcatFlashNgramForCausalLM

# Rounding gives about 1e-5 for logits with a standard deviation of 1.
TOLERANCE = 1e-4
EOS = 2
PAD = 3
# First tokens without a meaning of their own.
FIRST = 4
NEW = 12
# Random weights end a turn soon.
GREEDY: dict[str, Any] = {"do_sample": False, "max_new_tokens": NEW, "min_new_tokens": NEW}


def some_tokens(rows: int, length: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(FIRST, 300, (rows, length), generator=generator)


def with_ends(tokens: Tensor) -> Tensor:
    """End sequences inside the rows, because look-back ends there."""
    tokens = tokens.clone()
    tokens[0, [3, 4, -2]] = EOS
    return tokens


def worst(a: Tensor, b: Tensor) -> float:
    assert a.std() > 0.5
    return (a - b).abs().max().item()


CONFIGS: dict[str, dict[str, Any]] = {
    "as Lite": {},
    "bigrams, one table": {"emb_neighbor_num": 2, "emb_split_num": 1},
    "no identity experts": {"zero_expert_num": 0},
    "plain rope": {"rope_scaling": None},
    "beyond 64 with YaRN": {"rope_scaling": YarnScaling(10.0, 64), "max_position_embeddings": 640},
    "ends with token 7": {"eos_token_id": 7},
}


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_logits_are_those_of_the_reference(name: str, tmp_path: Path) -> None:
    config = write_tiny_checkpoint(tmp_path, seed=5, dtype=torch.float32, **CONFIGS[name])
    tokens = some_tokens(2, 100)
    tokens[0, [7, 40, 41, 90]] = config.eos_token_id
    model = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert worst(model(tokens).logits, load_reference(tmp_path)(tokens)) <= TOLERANCE


@torch.no_grad()
def test_logits_are_the_same_in_pieces(model: Any, reference: Any) -> None:
    tokens = with_ends(some_tokens(2, 20))
    expected = reference(tokens)
    for cuts in ([1] * 20, [2, 1, 3, 1, 13], [19, 1]):
        cache, found = None, []
        for piece in tokens.split(cuts, dim=1):
            output = model(piece, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            found.append(output.logits)
        assert worst(torch.cat(found, dim=1), expected) <= TOLERANCE


@torch.no_grad()
def greedy(reference: Any, tokens: Tensor) -> Tensor:
    """Continue by the reference, which computes everything anew for each token."""
    for _ in range(NEW):
        logits = reference(tokens)[:, -1].clone()
        logits[:, EOS] = -torch.inf
        tokens = torch.cat((tokens, logits.argmax(-1, keepdim=True)), dim=1)
    return tokens


@pytest.mark.parametrize("cache", [None, "static", "offloaded_static", "dynamic"])
def test_generation_is_that_of_the_reference(model: Any, reference: Any, cache: str | None) -> None:
    if cache == "offloaded_static" and not torch.cuda.is_available():
        pytest.skip("an offloaded cache needs a GPU")
    tokens = with_ends(some_tokens(2, 9))
    options = {} if cache is None else {"cache_implementation": cache, "disable_compile": True}
    assert torch.equal(model.generate(tokens, **GREEDY, **options), greedy(reference, tokens))


@pytest.mark.parametrize("cache", [None, "static"])
def test_generation_from_padding_on_the_left_is_that_of_each_row(
    model: Any, reference: Any, cache: str | None
) -> None:
    rows = [some_tokens(1, length, seed=length) for length in (3, 9, 6)]
    padded = torch.full((3, 9), PAD)
    for row, tokens in zip(padded, rows, strict=True):
        row[-tokens.shape[1] :] = tokens
    options = {} if cache is None else {"cache_implementation": cache, "disable_compile": True}
    found = model.generate(padded, attention_mask=(padded != PAD).long(), **GREEDY, **options)
    for row, tokens in zip(found, rows, strict=True):
        assert torch.equal(row[9:], greedy(reference, tokens)[0, tokens.shape[1] :])


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_no_logits(model: Any, reference: Any, side: str) -> None:
    tokens = some_tokens(1, 6)
    padding = torch.full((1, 5), PAD)
    parts = (padding, tokens) if side == "left" else (tokens, padding)
    padded = torch.cat(parts, dim=1)
    found = model(padded, attention_mask=(padded != PAD).long()).logits
    found = found[:, 5:] if side == "left" else found[:, :6]
    assert worst(found, reference(tokens)) <= TOLERANCE


@torch.no_grad()
def test_look_back_ends_at_a_packed_sequence(model: Any) -> None:
    first, second = some_tokens(1, 5, seed=1), some_tokens(1, 4, seed=2)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3]])
    packed = torch.cat((first, second), dim=1)
    apart = model(packed, position_ids=positions, use_cache=False).logits
    assert worst(apart[:, :5], model(first).logits) <= TOLERANCE
    assert worst(apart[:, 5:], model(second).logits) <= TOLERANCE


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 4}, {"do_sample": True, "top_k": 5}],
    ids=["beams", "all beams", "sampling"],
)
def test_generation_is_the_same_without_a_cache(model: Any, options: dict[str, Any]) -> None:
    tokens = with_ends(some_tokens(2, 9))
    found = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        found.append(model.generate(tokens, **{**GREEDY, **options}, use_cache=use_cache))
    assert torch.equal(*found)


@pytest.mark.parametrize("assistant", ["prompt", "model"])
def test_assisted_generation_is_greedy(model: Any, reference: Any, tmp_path: Path, assistant: str) -> None:
    tokens = some_tokens(1, 4).repeat(1, 3)
    if assistant == "prompt":
        options: dict[str, Any] = {"prompt_lookup_num_tokens": 4}
    else:
        # Right at times: it is the model with some noise, so the cache is cropped.
        helper = AutoModelForCausalLM.from_pretrained(model.name_or_path).eval()
        torch.manual_seed(0)
        helper.lm_head.weight.data += 0.1 * torch.randn_like(helper.lm_head.weight)
        options = {"assistant_model": helper}
    assert torch.equal(model.generate(tokens, **GREEDY, **options), greedy(reference, tokens))


@torch.no_grad()
def test_conversation_continues_from_its_cache(model: Any, reference: Any) -> None:
    tokens = some_tokens(1, 9)
    cache = DynamicCache(config=model.config)
    first = model.generate(tokens, **GREEDY, past_key_values=cache)
    second = torch.cat((first, some_tokens(1, 5, seed=1)), dim=1)
    assert torch.equal(model.generate(second, **GREEDY, past_key_values=cache), greedy(reference, second))


@torch.no_grad()
def test_whole_embeddings_are_taken_without_a_cache(model: Any) -> None:
    tokens = some_tokens(1, 6)
    rows = {}
    handle = model.model.ngram_embeddings.register_forward_hook(lambda *of: rows.update(whole=of[2]))
    expected = model(tokens).logits
    handle.remove()
    assert worst(model(inputs_embeds=rows["whole"], use_cache=False).logits, expected) <= TOLERANCE
    with pytest.raises(ValueError, match="cannot be cached"):
        model(inputs_embeds=rows["whole"])
    with pytest.raises(ValueError, match="one of input_ids and inputs_embeds"):
        model(tokens, inputs_embeds=rows["whole"])


def test_vocabulary_cannot_be_resized(model: Any) -> None:
    assert model.resize_token_embeddings(model.config.vocab_size) is model.get_input_embeddings()
    with pytest.raises(ValueError, match="hashed with this number"):
        model.resize_token_embeddings(model.config.vocab_size + 1)


@torch.no_grad()
def test_router_stays_in_float32(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    kept = {
        name.rpartition(".mlp.router.")[2]
        for name, weight in model.state_dict().items()
        if weight.dtype == torch.float32
    }
    assert kept == {"classifier.weight", "e_score_correction_bias"}
    assert model(some_tokens(1, 4)).logits.dtype == torch.bfloat16


@torch.no_grad()
def test_model_runs_with_parts_offloaded(folder: Path, tmp_path: Path, reference: Any) -> None:
    parts = {"model.ngram_embeddings.embedders": "disk", "model.layers.0": "disk"}
    names = [
        "model.embed_tokens",
        "model.norm",
        "model.rotary_emb",
        "lm_head",
        "model.ngram_embeddings.post_projs",
    ]
    layers = [
        f"model.layers.{layer}"
        for layer in range(1, LongcatConfig.from_json_file(folder / "config.json").num_layers)
    ]
    placed = dict.fromkeys([*names, *layers], "cpu") | parts
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=placed, offload_folder=tmp_path)
    tokens = with_ends(some_tokens(2, 20))
    assert worst(model(tokens).logits, reference(tokens)) <= TOLERANCE


def tensors_of(directory: Path) -> dict[str, Tensor]:
    found = {}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found.update({name: file.get_tensor(name) for name in file.offset_keys()})
    return found


def test_saved_copy_has_the_layout_and_values_of_the_original(
    folder: Path, model: Any, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    original, saved = tensors_of(folder), tensors_of(tmp_path)
    # As in every copy that Transformers has saved; the page says so.
    assert {name for name in original if name not in saved} == {
        name for name in original if name.startswith("model.mtp.")
    }
    assert set(saved) <= set(original)
    assert all(torch.equal(saved[name], original[name]) for name in saved)
    assert LongcatConfig.from_json_file(tmp_path / "config.json") == LongcatConfig.from_json_file(
        folder / "config.json"
    )
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = some_tokens(1, 10)
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_loss_reaches_the_rows_that_were_looked_up(folder: Path) -> None:
    model = LongcatFlashNgramForCausalLM.from_pretrained(folder)
    model.gradient_checkpointing_enable()
    tokens = some_tokens(1, 8)
    model(tokens, labels=tokens).loss.backward()
    for table in model.model.ngram_embeddings.embedders:
        touched = (table.weight.grad.abs().sum(-1) > 0).sum().item()
        assert 1 <= touched <= 8


def test_configuration_without_arguments_is_that_of_lite() -> None:
    config = LongcatFlashNgramConfig(rope_theta=5e6).checked()
    assert (config.ngram_base, config.ngram_table_count, config.num_experts_total) == (78 * 131072, 12, 384)
