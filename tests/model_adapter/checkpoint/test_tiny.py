"""The tiny checkpoint is complete: configuration, weights, and a tokenizer that covers the vocabulary."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from transformers import PreTrainedTokenizerFast

from serval_sglang.checkpoint import (
    load_config,
    load_reference,
    random_state_dict,
    tiny_config,
    write_tiny_checkpoint,
)
from serval_sglang.checkpoint.inspection import inspect_checkpoint
from serval_sglang.checkpoint.parts import Part
from serval_sglang.config import ConfigError
from serval_sglang.reference import ReferenceModel


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    directory = tmp_path_factory.mktemp("tiny")
    write_tiny_checkpoint(directory, seed=0, dtype=torch.bfloat16, num_layers=1)
    return PreTrainedTokenizerFast.from_pretrained(directory)


def test_tiny_checkpoint_loads_with_overrides(tmp_path: Path) -> None:
    written = write_tiny_checkpoint(tmp_path, seed=0, dtype=torch.bfloat16, num_layers=1, vocab_size=401)
    assert written == load_config(tmp_path) == tiny_config(num_layers=1, vocab_size=401)
    assert load_reference(tmp_path)(torch.tensor([[1, 400]])).shape == (1, 2, 401)
    assert len(PreTrainedTokenizerFast.from_pretrained(tmp_path)) == 401


def test_tiny_sparse_checkpoint_has_published_names(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, seed=0, dtype=torch.float32, sparse=True, mtp=True, num_layers=1)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        names = set(file.keys())
    assert {"model.oe_embed_tokens11.weight", "model.oe_embed_proj0.weight"} <= names
    assert "model.layers.0.self_attn.0.indexer.weights_proj.weight" in names
    assert not any("ngram_embeddings" in name or "self_attn.1.indexer" in name for name in names)
    found = inspect_checkpoint(tmp_path)
    assert found.is_complete, found
    assert found.mtp == "complete"
    assert found.parts[Part.INDEXER].tensors == 4
    assert found.parts[Part.NGRAM_TABLES].tensors == found.parts[Part.NGRAM_PROJECTIONS].tensors == 12
    expected = ReferenceModel(tiny_config(sparse=True, num_layers=1))
    expected.load_state_dict(random_state_dict(expected.config, seed=0))
    tokens = torch.arange(60)[None] + 5
    assert torch.equal(load_reference(tmp_path)(tokens), expected(tokens))


def test_tiny_sparse_checkpoint_is_not_for_fp8(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="FP8 or sparse attention, not both"):
        write_tiny_checkpoint(tmp_path, seed=0, dtype=torch.float32, sparse=True, fp8=True)


def test_tiny_tokenizer_has_special_tokens_of_longcat(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3]) == [
        "<longcat_unk>",
        "<longcat_s>",
        "</longcat_s>",
        "<longcat_pad>",
    ]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 3)


def test_tiny_tokenizer_keeps_markers_as_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "<longcat_user>hi<longcat_assistant><longcat_tool_call>f\n</longcat_tool_call></longcat_s>"
    ids = tokenizer.encode(text)
    assert len(ids) == 5 + len("hi") + len("f\n")
    assert tokenizer.decode(ids, skip_special_tokens=True) == text.removesuffix("</longcat_s>")


def test_tiny_tokenizer_decodes_every_id(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == tiny_config().vocab_size
    assert all(tokenizer.decode([token]) for token in range(len(tokenizer)))


@given(text=st.text())
def test_tiny_tokenizer_round_trips_any_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tiny_checkpoint_refuses_too_small_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vocab_size must be at least 277 for the tokenizer, got 256"):
        write_tiny_checkpoint(tmp_path, seed=0, dtype=torch.float32, vocab_size=256)
    assert list(tmp_path.iterdir()) == []
