"""Checkpoints read back bit for bit, and wrong ones are refused with a list of everything wrong."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from serval_sglang.checkpoint import (
    CheckpointError,
    load_mtp_layer,
    load_reference,
    load_state_dict,
    mtp_tensor_shapes,
    random_state_dict,
    save_checkpoint,
    tiny_config,
)
from serval_sglang.reference import ReferenceModel

CONFIG = tiny_config(num_layers=1)
ROUTER = "model.layers.0.mlp.router"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return random_state_dict(CONFIG, seed=0)


def rewrite(directory: Path, changes: dict[str, Tensor | None]) -> None:
    """Replace tensors of an unsharded checkpoint; None removes one."""
    file = directory / "model.safetensors"
    tensors = {**load_file(file), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_save_and_load_are_bit_exact(tmp_path: Path, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
    save_checkpoint(weights, CONFIG, tmp_path, dtype=dtype)
    loaded = load_state_dict(tmp_path)
    assert list(loaded) == list(weights)
    for name, tensor in loaded.items():
        stored_dtype = torch.float32 if name.startswith(ROUTER) else dtype
        assert tensor.dtype == stored_dtype, name
        assert torch.equal(tensor, weights[name].to(stored_dtype)), name
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["torch_dtype"] == str(dtype).removeprefix("torch.")
    assert "model_type" not in written


@torch.no_grad()
def test_load_reference_computes_the_same(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.float32)
    model = ReferenceModel(CONFIG)
    model.load_state_dict(weights)
    tokens = torch.arange(40)[None] * 7 % CONFIG.vocab_size
    assert torch.equal(load_reference(tmp_path)(tokens), model(tokens))


def test_load_reference_keeps_router_in_float32(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.bfloat16)
    for dtype in (torch.float32, torch.bfloat16):
        model = load_reference(tmp_path, dtype=dtype)
        assert model.lm_head.weight.dtype == dtype
        assert model.model.layers[0].mlp.router.classifier.weight.dtype == torch.float32
        assert model(torch.tensor([[5, 6]])).dtype == torch.float32


def test_save_checkpoint_limits_shards(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    limit = 200_000
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.bfloat16, max_shard_bytes=limit)
    shards = {path.name: load_file(path) for path in sorted(tmp_path.glob("*.safetensors"))}
    sizes = {name: sum(t.nbytes for t in tensors.values()) for name, tensors in shards.items()}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(shards) > 3
    assert next(iter(shards)) == f"model-00001-of-{len(shards):05d}.safetensors"
    assert max(sizes.values()) <= limit
    assert index["metadata"]["total_size"] == sum(sizes.values())
    assert index["weight_map"] == {name: file for file, tensors in shards.items() for name in tensors}
    loaded = load_state_dict(tmp_path)
    assert all(
        torch.equal(loaded[name].float(), weights[name].to(loaded[name].dtype).float()) for name in weights
    )


def test_save_checkpoint_gives_large_tensor_its_own_shard(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.float32, max_shard_bytes=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == len(weights)
    assert load_state_dict(tmp_path).keys() == weights.keys()


def test_save_checkpoint_refuses_directory_with_weights(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"already holds \['model\.safetensors'\]"):
        save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.bfloat16, max_shard_bytes=100_000)


def test_load_state_dict_omits_mtp_tensors(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    mtp = {name: torch.zeros(shape) for name, shape in mtp_tensor_shapes(CONFIG).items()}
    save_checkpoint({**weights, **mtp}, CONFIG, tmp_path, dtype=torch.float32)
    assert "model.mtp.layers.0.eh_proj.weight" in load_file(tmp_path / "model.safetensors")
    assert load_state_dict(tmp_path).keys() == weights.keys()


@pytest.mark.parametrize("quantised", [{}, {"fp8": True}, {"packed": "gptq"}])
def test_load_mtp_layer_returns_what_was_saved(tmp_path: Path, quantised: dict[str, Any]) -> None:
    weights = random_state_dict(CONFIG, seed=2, mtp=True)
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.float32, **quantised)
    loaded = {f"model.mtp.{name}": tensor for name, tensor in load_mtp_layer(tmp_path).state_dict().items()}
    assert loaded.keys() == mtp_tensor_shapes(CONFIG).keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.items())


def test_load_mtp_layer_refuses_checkpoint_without_whole_layer(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    mtp = {name: torch.zeros(shape) for name, shape in mtp_tensor_shapes(CONFIG).items()}
    save_checkpoint(weights, CONFIG, tmp_path / "none", dtype=torch.float32)
    with pytest.raises(CheckpointError, match="has no multi-token-prediction layer"):
        load_mtp_layer(tmp_path / "none")
    save_checkpoint(weights | mtp, CONFIG, tmp_path / "part", dtype=torch.float32)
    rewrite(tmp_path / "part", {"model.mtp.norm.weight": None})
    with pytest.raises(CheckpointError, match=r"it lacks model\.mtp\.norm\.weight"):
        load_mtp_layer(tmp_path / "part")


def test_load_state_dict_accepts_alias_of_word_embedding(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    alias, name = "model.ngram_embeddings.word_embeddings.weight", "model.embed_tokens.weight"
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.float32)
    for changes in ({alias: weights[name].clone()}, {alias: weights[name].clone(), name: None}):
        rewrite(tmp_path, changes)
        loaded = load_state_dict(tmp_path)
        assert loaded.keys() == weights.keys()
        assert torch.equal(loaded[name], weights[name])
    rewrite(tmp_path, {alias: weights[name] + 1, name: weights[name]})
    with pytest.raises(CheckpointError, match="must be the same tensor"):
        load_state_dict(tmp_path)


def test_load_state_dict_lists_missing_unknown_and_misshapen_tensors(
    tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.float32)
    rewrite(
        tmp_path,
        {
            "model.norm.weight": None,
            "lm_head.weight": None,
            "lm_head.weight_scale_inv": torch.ones(1),
            f"{ROUTER}.classifier.bias": torch.ones(1),
            f"{ROUTER}.e_score_correction_bias": torch.ones(23),
        },
    )
    with pytest.raises(CheckpointError) as caught:
        load_state_dict(tmp_path)
    message = str(caught.value)
    assert "lacks lm_head.weight, model.norm.weight" in message
    assert f"unknown lm_head.weight_scale_inv, {ROUTER}.classifier.bias" in message
    assert f"misshapen {ROUTER}.e_score_correction_bias (23,) instead of (24,)" in message


def test_load_state_dict_truncates_long_list(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.float32)
    rewrite(tmp_path, dict.fromkeys((name for name in weights if ".experts." in name), None))
    with pytest.raises(CheckpointError, match=r"and 28 more\."):
        load_state_dict(tmp_path)


def test_save_checkpoint_refuses_incomplete_state_dict(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    incomplete = {name: tensor for name, tensor in weights.items() if name != "lm_head.weight"}
    with pytest.raises(CheckpointError, match=r"state_dict does not fit .*: it lacks lm_head\.weight\."):
        save_checkpoint(incomplete, CONFIG, tmp_path / "new", dtype=torch.float32)
    assert not (tmp_path / "new").exists()


def test_save_checkpoint_refuses_other_dtypes(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=r"\['float32', 'bfloat16', 'float16'\], got torch\.int8"):
        save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.int8)


def test_load_names_directory_without_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        load_state_dict(tmp_path)


def test_load_never_reads_pickled_weights(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.float32)
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"must hold model\.safetensors or model\.safetensors\.index\.json"
    ):
        load_state_dict(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(weights))
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_state_dict(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (
            {"lm_head.weight": "../elsewhere.safetensors"},
            r"files beside it, got '\.\./elsewhere\.safetensors'",
        ),
        ({"lm_head.weight": "absent.safetensors"}, r"absent\.safetensors cannot be read"),
        ({"lm_head.weight": 5}, r"files beside it, got 5"),
        ([], r"weight_map of .* must be a JSON object, got \[\]"),
    ],
)
def test_load_refuses_wrong_index(
    tmp_path: Path, weights: dict[str, Tensor], weight_map: object, message: str
) -> None:
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.float32)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=message):
        load_state_dict(tmp_path)


def test_load_refuses_index_that_disagrees_with_shards(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    save_checkpoint(weights, CONFIG, tmp_path, dtype=torch.float32, max_shard_bytes=500_000)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["model.norm.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"disagree on model\.norm\.weight"):
        load_state_dict(tmp_path)
