"""Checkpoints that cannot be served are refused before an engine starts, each with the reason."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from serval_sglang import preflight
from serval_sglang.checkpoint import write_tiny_checkpoint
from serval_sglang.config import WITHOUT_NGRAMS
from serval_sglang.launch import main
from serval_sglang.options import DEMO_MODEL, Device, EngineOptions, Untested
from serval_sglang.preflight import find_mistakes
from serval_sglang.siblings import ARCHITECTURES


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def truncate_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def drop_mtp_layer(folder: Path) -> None:
    (folder / "mtp.safetensors").unlink()
    (folder / "model.safetensors.index.json").unlink()


def remove_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()


def list_missing_shard(folder: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "config is no JSON": (
        lambda folder: (folder / "config.json").write_text("{"),
        "config.json cannot be read",
    ),
    "another architecture": (
        lambda folder: change_config(folder, architectures=["LlamaForCausalLM"]),
        "config.json is that of a LlamaForCausalLM; Serval serves LongcatFlashNgramForCausalLM",
    ),
    "no weights": (
        remove_weights,
        "must hold model.safetensors or model.safetensors.index.json",
    ),
    "truncated weights": (truncate_weights, "model.safetensors"),
    "a shard is missing": (list_missing_shard, "model-00001-of-00002.safetensors is in the index"),
    "more layers than weights": (lambda folder: change_config(folder, num_layers=4), "missing"),
    "other sizes": (
        lambda folder: change_config(folder, ffn_hidden_size=96),
        "not of the shape in config.json",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: missing"),
    "no tokenizer's settings": (
        lambda folder: (folder / "tokenizer_config.json").unlink(),
        "tokenizer_config.json: missing",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_MODEL, tmp_path / "model"))


@pytest.fixture
def options(folder: Path) -> EngineOptions:
    return EngineOptions(model=folder, device="cpu")


def mistakes(options: EngineOptions) -> list[str]:
    return find_mistakes(options, tables_on_host=False)


def test_find_mistakes_finds_none_in_a_good_checkpoint(options: EngineOptions) -> None:
    assert mistakes(options) == []


@pytest.mark.parametrize("case", BROKEN)
def test_find_mistakes_names_what_is_wrong(options: EngineOptions, folder: Path, case: str) -> None:
    damage, expected = BROKEN[case]
    damage(folder)
    assert expected in "; ".join(mistakes(options))


@pytest.mark.parametrize(("device", "is_refused"), [("cuda", True), ("cpu", False)])
def test_find_mistakes_refuses_on_a_gpu_what_only_a_cpu_serves(
    options: EngineOptions, device: Device, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {name: replace(each, refused_on_gpu="not yet") for name, each in ARCHITECTURES.items()}
    monkeypatch.setattr(preflight, "ARCHITECTURES", refused)
    assert ("not yet" in mistakes(replace(options, device=device))) == is_refused


def test_find_mistakes_refuses_a_place_for_tables_that_the_model_has_not(tmp_path: Path) -> None:
    changes = {"rope_scaling": None, "num_layers": 1, **WITHOUT_NGRAMS}
    write_tiny_checkpoint(tmp_path, seed=0, dtype=torch.bfloat16, **changes)
    options = EngineOptions(model=tmp_path, device="cpu")
    assert find_mistakes(options, tables_on_host=False) == []
    (mistake,) = find_mistakes(options, tables_on_host=True)
    assert mistake.startswith("--ngram-tables host: this model has no n-gram tables")


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> EngineOptions:
    folder = tmp_path_factory.mktemp("sparse")
    write_tiny_checkpoint(folder, seed=0, dtype=torch.float32, sparse=True, mtp=True, num_layers=1)
    return EngineOptions(model=folder, device="cpu")


@pytest.mark.parametrize("flags", [[], ["--load-format=dummy"]])
def test_find_mistakes_refuses_sparse_attention_on_a_gpu_only(
    sparse: EngineOptions, flags: list[str]
) -> None:
    assert mistakes(replace(sparse, sglang_flags=flags)) == []
    (mistake,) = mistakes(replace(sparse, device="cuda", sglang_flags=flags))
    assert mistake.startswith("no engine on a GPU serves LongCat-Flash-Lite-Sparse yet")


def test_find_mistakes_refuses_drafts_with_sparse_attention(sparse: EngineOptions) -> None:
    (mistake,) = mistakes(replace(sparse, mtp_steps=1))
    assert mistake.startswith("--mtp-steps is not supported with sparse attention")


def test_find_mistakes_misses_the_mtp_layer_only_if_drafts_are_asked_for(
    options: EngineOptions, folder: Path
) -> None:
    drop_mtp_layer(folder)
    assert find_mistakes(options, tables_on_host=False) == []
    (mistake,) = find_mistakes(replace(options, mtp_steps=1), tables_on_host=False)
    assert mistake.startswith("it has no multi-token-prediction layer (17 tensors model.mtp.*)")


def test_find_mistakes_accepts_drafts_with_the_mtp_layer(options: EngineOptions) -> None:
    assert find_mistakes(replace(options, mtp_steps=3), tables_on_host=False) == []


def test_main_refuses_a_broken_checkpoint_before_it_starts_an_engine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval_sglang.launch.supervise", lambda *_: pytest.fail("an engine was started"))
    truncate_weights(folder)
    with pytest.raises(SystemExit, match=r"serval engine: error: .* cannot be served: .*model\.safetensors"):
        main([f"--model={folder}", "--device=cpu", "--port=21999"])


@pytest.mark.parametrize("flags", [["--load-format=dummy"], ["--load-format", "sharded_state"]])
def test_find_mistakes_leaves_weights_to_other_formats(
    options: EngineOptions, folder: Path, flags: list[str]
) -> None:
    (folder / "model.safetensors").unlink()
    assert mistakes(replace(options, sglang_flags=flags)) == []


@pytest.mark.parametrize(
    ("gpus", "flags", "expected"),
    [
        (2, [], []),
        (1, [], ["--tp 2 needs 2 GPUs, and CUDA shows 1 here"]),
        (0, [], ["CUDA shows no GPU here; see nvidia-smi and CUDA_VISIBLE_DEVICES, or give --device cpu"]),
        (1, ["--nnodes=2"], []),
        (2, ["--dp-size=2"], ["--tp 2 with --dp-size 2 needs 4 GPUs, and CUDA shows 2 here"]),
        (2, ["--dp-size=2", "--enable-dp-attention"], []),
    ],
    ids=["enough", "too few", "none", "on two machines", "for replicas", "for attention's replicas"],
)
def test_find_mistakes_counts_gpus(
    options: EngineOptions, monkeypatch: pytest.MonkeyPatch, gpus: int, flags: list[str], expected: list[str]
) -> None:
    monkeypatch.setattr(preflight, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(preflight, "missing_memory", lambda *_, **__: [])
    assert mistakes(replace(options, device="cuda", tp=2, sglang_flags=flags)) == expected


def test_find_mistakes_reports_missing_memory(
    options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "missing_memory", lambda *_, **__: ["too little memory"])
    assert mistakes(options) == ["too little memory"]


@pytest.mark.parametrize(
    ("flag", "device", "allowed", "expected"),
    [
        ("--enable-hierarchical-cache", "cuda", None, "has not been compared with this model on a GPU yet"),
        ("--enable-hicache", "cuda", None, "or give --allow-untested hicache"),
        ("--enable-hier", "cuda", None, "other models that keep more than keys and values"),
        ("--enable-hierarchical-cache", "cuda", "hicache", None),
        ("--enable-hierarchical-cache", "cpu", "hicache", "SGLang starts no HiCache on a CPU"),
        ("--enable-metrics", "cuda", None, None),
        ("--hicache-size=1", "cuda", None, None),
    ],
)
def test_find_mistakes_wants_a_yes_to_host_cache(
    options: EngineOptions,
    monkeypatch: pytest.MonkeyPatch,
    flag: str,
    device: Device,
    allowed: Untested | None,
    expected: str | None,
) -> None:
    monkeypatch.setattr(preflight, "visible_gpus", lambda: 2)
    monkeypatch.setattr(preflight, "missing_memory", lambda *_, **__: [])
    given = replace(options, device=device, allow_untested=allowed, sglang_flags=[flag])
    found = mistakes(given)
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]
