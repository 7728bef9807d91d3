"""Inspection of checkpoints of any size and format, and of everything that is wrong with them."""

import json
import pickle
from pathlib import Path

import pytest

from serval_sglang.checkpoint.inspection import inspect_checkpoint
from serval_sglang.checkpoint.layout import ALIASES, mtp_tensor_shapes, tensor_shapes
from serval_sglang.checkpoint.parts import Part, part_of
from serval_sglang.checkpoint.quantization import Quantization
from serval_sglang.config import LongcatConfig
from serval_sglang.known_configs import LITE, TINY
from serval_testkit.header_only_checkpoint import (
    LINEAR,
    Stored,
    stored_fp8,
    stored_plain,
    write_header_only_checkpoint,
    write_header_only_file,
)

FP8_CONFIG = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
INT4_CONFIG = {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True}
COMPRESSED_CONFIG = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}},
}


def int4(config: LongcatConfig, *, weight: str, parts: tuple[str, ...]) -> Stored:
    stored: Stored = {}
    for name, (dtype, shape) in stored_plain(config).items():
        if part_of(name) in LINEAR:
            layer = name.removesuffix(".weight")
            stored[f"{layer}.{weight}"] = ("I32", (shape[0], shape[1] // 8))
            stored |= {f"{layer}.{part}": ("BF16", (shape[0], 1)) for part in parts}
        else:
            stored[name] = (dtype, shape)
    return stored


def test_inspect_lite_at_full_size_without_reading_weights(tmp_path: Path) -> None:
    mtp = {name: ("BF16", shape) for name, shape in mtp_tensor_shapes(LITE).items()}
    write_header_only_checkpoint(tmp_path, LITE, {**stored_plain(LITE), **mtp})
    found = inspect_checkpoint(tmp_path)
    assert found.is_complete
    parts = found.parts
    assert parts[Part.NGRAM_TABLES].parameters == 31_406_985_216
    assert parts[Part.NGRAM_TABLES].size_bytes == pytest.approx(62.81e9, rel=1e-4)
    assert parts[Part.NGRAM_PROJECTIONS].parameters == pytest.approx(9.44e6, rel=1e-3)
    assert parts[Part.WORD_EMBEDDING].parameters == parts[Part.HEAD].parameters == 131072 * 3072
    layers = (*LINEAR, Part.ROUTER, Part.NORMS)
    assert sum(parts[part].parameters for part in layers) == pytest.approx(36.34e9, rel=1e-3)
    model = sum(size.parameters for part, size in parts.items() if part is not Part.MTP)
    assert model == pytest.approx(68.56e9, rel=1e-4)
    assert parts[Part.MTP].tensors == 17
    assert parts[Part.MTP].parameters == pytest.approx(0.51e9, rel=1e-2)
    assert parts[Part.ROUTER].dtypes == ("F32",)
    assert parts[Part.EXPERTS].tensors == 14 * 256 * 3
    assert found.config == LITE
    assert found.quantization is None
    on_disk = sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir())
    assert on_disk < 20e6, "the file has a hole where 137 GB of weights would be"


def test_inspect_counts_fp8_parameters_in_half_the_bytes(tmp_path: Path) -> None:
    write_header_only_checkpoint(tmp_path, LITE, stored_fp8(LITE), quantization_config=FP8_CONFIG)
    found = inspect_checkpoint(tmp_path)
    assert found.is_complete
    assert found.quantization == Quantization("fp8", 8, None, (128, 128))
    assert sum(size.parameters for size in found.parts.values()) == pytest.approx(68.56e9, rel=1e-4)
    body = sum(found.parts[part].size_bytes for part in LINEAR)
    assert body == pytest.approx(36.3e9, rel=2e-3)
    assert sum(size.size_bytes for size in found.parts.values()) == pytest.approx(101e9, rel=1e-2)
    assert found.parts[Part.EXPERTS].dtypes == ("F32", "F8_E4M3")


@pytest.mark.parametrize(
    ("weight", "parts", "config", "described"),
    [
        ("qweight", ("qzeros", "scales"), INT4_CONFIG, "auto-round, 4 bit, groups of 128"),
        (
            "weight_packed",
            ("weight_scale", "weight_shape"),
            COMPRESSED_CONFIG,
            "compressed-tensors, 4 bit, groups of 128",
        ),
    ],
)
def test_inspect_counts_packed_parameters(
    tmp_path: Path, weight: str, parts: tuple[str, ...], config: dict[str, object], described: str
) -> None:
    stored = int4(TINY, weight=weight, parts=parts)
    write_header_only_checkpoint(tmp_path, TINY, stored, quantization_config=config)
    found = inspect_checkpoint(tmp_path)
    assert found.is_complete
    assert str(found.quantization) == described
    expected = sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in tensor_shapes(TINY).values())
    assert sum(size.parameters for size in found.parts.values()) == expected


def test_inspect_lists_missing_unknown_and_misshapen_tensors(tmp_path: Path) -> None:
    stored = stored_plain(TINY)
    del stored["model.layers.1.mlp.experts.3.up_proj.weight"]
    stored["model.norm.weight"] = ("BF16", (95,))
    stored["model.layers.0.self_attn.0.k_norm.weight"] = ("BF16", (8,))
    stored["lm_head.weight_scale_inv"] = ("F32", (1, 1))
    write_header_only_checkpoint(tmp_path, TINY, stored)
    found = inspect_checkpoint(tmp_path)
    assert not found.is_complete
    assert found.missing == ("model.layers.1.mlp.experts.3.up_proj.weight",)
    assert found.unknown == ("lm_head.weight_scale_inv", "model.layers.0.self_attn.0.k_norm.weight")
    assert found.misshapen == ("model.norm.weight (95,) instead of (96,)",)
    assert found.parts[Part.UNKNOWN].tensors == 2


def test_inspect_lists_missing_fp8_scales(tmp_path: Path) -> None:
    layer = "model.layers.0.mlps.1.down_proj"
    stored = stored_fp8(TINY)
    del stored[f"{layer}.weight_scale_inv"]
    stored["model.layers.0.mlps.0.up_proj.weight_scale_inv"] = ("F32", (2, 1))
    write_header_only_checkpoint(tmp_path, TINY, stored, quantization_config=FP8_CONFIG)
    found = inspect_checkpoint(tmp_path)
    assert found.missing == (f"{layer}.weight_scale_inv",)
    assert found.misshapen == ("model.layers.0.mlps.0.up_proj.weight_scale_inv (2, 1) instead of (1, 1)",)


def test_inspect_does_not_accept_scales_for_layer(tmp_path: Path) -> None:
    layer = "model.layers.0.mlps.1.down_proj"
    stored = stored_fp8(TINY)
    del stored[f"{layer}.weight"]
    write_header_only_checkpoint(tmp_path, TINY, stored, quantization_config=FP8_CONFIG)
    assert inspect_checkpoint(tmp_path).missing == (layer,)


def test_inspect_counts_aliased_word_embedding_once(tmp_path: Path) -> None:
    ((alias, name),) = ALIASES.items()
    stored = stored_plain(TINY)
    for number, changed in enumerate(({**stored, alias: stored[name]}, {**stored, alias: stored[name]})):
        if number:
            del changed[name]
        write_header_only_checkpoint(tmp_path / str(number), TINY, changed)
        found = inspect_checkpoint(tmp_path / str(number))
        assert found.is_complete
        assert found.parts[Part.WORD_EMBEDDING].parameters == TINY.vocab_size * TINY.hidden_size


def test_inspect_shows_sizes_despite_wrong_configuration(tmp_path: Path) -> None:
    write_header_only_checkpoint(tmp_path, TINY, stored_plain(TINY), zero_expert_type="copy")
    found = inspect_checkpoint(tmp_path)
    assert found.config is None
    assert any("zero_expert_type must be 'identity'" in problem for problem in found.problems)
    assert found.parts[Part.EXPERTS].tensors == 3 * 16 * 3
    for content in ("{", "[]"):
        (tmp_path / "config.json").write_text(content)
        assert "config.json" in inspect_checkpoint(tmp_path).problems[0]


def test_inspect_names_lost_extra_and_damaged_shards(tmp_path: Path) -> None:
    stored = stored_plain(TINY)
    names = sorted(stored)
    shards = {f"model-0000{i}-of-00003.safetensors": names[i - 1 :: 3] for i in (1, 2, 3)}
    for file, members in shards.items():
        write_header_only_file(tmp_path / file, {name: stored[name] for name in members})
    weight_map = {name: file for file, members in shards.items() for name in members}
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert inspect_checkpoint(tmp_path).is_complete

    first, second, third = (tmp_path / file for file in shards)
    first.rename(tmp_path / "old.safetensors")
    second.write_bytes(second.read_bytes()[:-1])
    index.write_text(json.dumps({"weight_map": {**weight_map, "model.new.weight": third.name}}))
    found = inspect_checkpoint(tmp_path)
    problems = "\n".join(found.problems)
    assert f"{first.name} is in the index, but not in the directory" in problems
    assert found.unread == ("old.safetensors",)
    assert f"{second} cannot be read as safetensors" in problems
    assert f"{third.name} and the index disagree on 1 tensors, of which model.new.weight" in problems
    assert set(found.missing) == set(shards[first.name]) | set(shards[second.name])


UNRELATED = {
    "original/model.safetensors": "weights in a folder of their own",
    "original/consolidated.00.pth": "the authors' format",
    "lora/adapter_model.safetensors": "an adapter",
    "onnx/old/model.safetensors": "a folder in a folder",
    ".cache/model.safetensors": "a download tool's record",
}


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("file", UNRELATED)
def test_inspect_passes_over_weights_that_the_engine_does_not_read(
    tmp_path: Path, file: str, indexed: bool
) -> None:
    write_header_only_checkpoint(tmp_path, TINY, stored_plain(TINY))
    if indexed:
        weight_map = dict.fromkeys(stored_plain(TINY), "model.safetensors")
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / file).parent.mkdir(parents=True)
    write_header_only_file(tmp_path / file, {"layer.lora_A.weight": ("BF16", (2, 2))})
    found = inspect_checkpoint(tmp_path)
    assert found.is_complete, found.problems
    assert found.files == 1
    hidden_or_other = file.startswith(".") or file.endswith(".pth")
    assert found.unread == (() if hidden_or_other else (file,))


@pytest.mark.parametrize("other", ["adapter_model.safetensors", "consolidated.safetensors"])
def test_inspect_passes_over_files_that_the_index_does_not_list(tmp_path: Path, other: str) -> None:
    write_header_only_checkpoint(tmp_path, TINY, stored_plain(TINY))
    write_header_only_file(tmp_path / other, stored_plain(TINY))
    weight_map = dict.fromkeys(stored_plain(TINY), "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found = inspect_checkpoint(tmp_path)
    assert found.is_complete, found.problems
    assert found.unread == (other,)


@pytest.mark.parametrize(
    ("others", "is_complete"),
    [
        (["consolidated.safetensors"], True),
        (["adapter_model.safetensors"], False),
        (["model-00001-of-00002.safetensors"], False),
        (["adapter_model.safetensors", "consolidated.safetensors"], False),
    ],
)
def test_inspect_without_index_reports_files_that_the_engine_would_load_too(
    tmp_path: Path, others: list[str], is_complete: bool
) -> None:
    write_header_only_checkpoint(tmp_path, TINY, stored_plain(TINY))
    for other in others:
        write_header_only_file(tmp_path / other, stored_plain(TINY))
    found = inspect_checkpoint(tmp_path)
    assert found.is_complete is is_complete
    assert [problem.split()[0] for problem in found.problems] == ([] if is_complete else others)
    assert set(found.unread) == (set(others) if is_complete else set())


def test_inspect_does_not_load_disguised_pickle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps({"lm_head.weight": 1}))
    found = inspect_checkpoint(tmp_path)
    assert any("cannot be read as safetensors" in problem for problem in found.problems)


def test_part_of_knows_every_tensor() -> None:
    for name in (*tensor_shapes(TINY), *mtp_tensor_shapes(TINY), *ALIASES):
        assert part_of(name) is not Part.UNKNOWN, name
        assert (part_of(name) is Part.MTP) == name.startswith("model.mtp."), name
        assert (part_of(name) is Part.NORMS) == ("norm" in name and "mtp" not in name), name
