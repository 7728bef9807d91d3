"""LongCat-Flash-Lite and -Chat at their full sizes, built and loaded by SGLang without memory for weights.

SGLang builds Serval's model for a rank on torch's "meta" device and loads tensors with the names, shapes and
dtypes of the released checkpoints, but without values. The whole model is built at every split, for the first
and the last rank, and both ranks of TP 2 EP 2 load it. At the other splits every rank loads one layer with 32
of the 256 experts: layers and experts differ in nothing but their numbers.

For FP8 this includes the joined scales of attention's first projections (12 + 5 = 17 rows of blocks) and the
second projection in bfloat16. Not covered, because it needs a GPU: values, pinned memory, what SGLang
allocates beside the model, and weights in another layout after loading, such as Marlin's or DeepGEMM's on
Blackwell. `serval_testkit/weightless_engine.py` says what is imitated.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from serval_sglang.checkpoint.fp8 import QUANTIZATION_CONFIG
from serval_sglang.checkpoint.layout import TABLE_DTYPE_KEY, table_name
from serval_sglang.checkpoint.parts import Part, part_of
from serval_sglang.config import LongcatConfig
from serval_sglang.known_configs import FLASH, LITE
from serval_sglang.plan.shard_sizes import ABSORBED, ROTARY, TablePlacement, shard_sizes
from serval_sglang.weights.ledger import CheckpointMismatch
from serval_testkit.copied_boxes import Box, Copy, RecordedCopies, times_covered
from serval_testkit.header_only_checkpoint import stored_fp8, stored_plain

pytest.importorskip("serval_sglang.models.longcat_flash", reason="needs SGLang")
from sglang.srt.model_loader.utils import set_default_torch_dtype

from serval_sglang.layers.ngram_tables import NgramTables, TableStorage
from serval_testkit import weightless_engine

BF16, FP8, F32, INT8 = torch.bfloat16, torch.float8_e4m3fn, torch.float32, torch.int8
DTYPES = {"BF16": BF16, "F8_E4M3": FP8, "F32": F32}


def one_layer(config: LongcatConfig) -> LongcatConfig:
    """Return the model at full width, but quicker to load."""
    return replace(config, num_layers=1, n_routed_experts=32)


@dataclass(frozen=True, kw_only=True)
class Engine:
    tp: int
    ep: int = 1
    fp8: bool = False
    tables: TablePlacement = "device"
    config: LongcatConfig = LITE

    def __str__(self) -> str:
        dtype = "FP8" if self.fp8 else "bf16"
        tables = f"tables {self.tables}" if self.config.has_ngrams else "no tables"
        return f"TP {self.tp} EP {self.ep} {dtype}, {tables}, {self.config.num_layers} layers"


SPLITS = [(1, 1), (2, 1), (4, 1), (8, 1), (2, 2), (8, 8)]
ENGINES = [
    *(Engine(tp=tp, ep=ep) for tp, ep in SPLITS),
    *(Engine(tp=tp, fp8=True) for tp in (1, 2)),
    *(Engine(tp=2, ep=2, tables=tables) for tables in ("host", "8bit")),
    # As LongCat-Flash-Chat's authors deploy it on one machine.
    Engine(tp=8, ep=8, fp8=True, config=FLASH),
]
ENDS = [(engine, rank) for engine in ENGINES for rank in sorted({0, engine.tp - 1})]


@pytest.fixture(scope="module")
def in_place() -> Iterator[pytest.MonkeyPatch]:
    with weightless_engine.own_model_in_place() as patch:
        yield patch


@pytest.fixture(scope="module")
def build(in_place: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return a function that builds the model of a rank."""

    @cache
    def folder(config: LongcatConfig, fp8: bool, tables: TablePlacement) -> Path:
        path = tmp_path_factory.mktemp("checkpoint")
        more: dict[str, Any] = {TABLE_DTYPE_KEY: "int8"} if tables == "8bit" else {}
        more |= {"quantization_config": QUANTIZATION_CONFIG} if fp8 else {}
        (path / "config.json").write_text(json.dumps({**config.to_dict(), **more}))
        return path

    def make(engine: Engine, rank: int, memory: NoMemory | None = None) -> Any:
        in_place.setenv("SERVAL_NGRAM_TABLES", "host" if engine.tables == "host" else "device")
        path = folder(engine.config, engine.fp8, engine.tables)
        with (
            weightless_engine.engine_rank(path, tp=engine.tp, ep=engine.ep, rank=rank) as arguments,
            memory or NoMemory(),
        ):
            return weightless_engine.build(arguments)

    return make


class NoMemory(TorchFunctionMode):
    """Creates uninitialised tensors on "meta" wherever code asks for them; counts the bytes by device and
    pinning."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[tuple[str, bool]] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not torch.empty or kwargs.get("device") is None:
            return func(*args, **kwargs)
        place = (torch.device(kwargs.pop("device")).type, kwargs.pop("pin_memory", False))
        made = func(*args, **kwargs, device="meta")
        self.asked[place] += made.nbytes
        return made


def checkpoint(engine: Engine) -> dict[str, Tensor]:
    """Return the tensors of the released checkpoint, without values."""
    stored = (stored_fp8 if engine.fp8 else stored_plain)(engine.config)
    tensors = {
        name: torch.empty(shape, dtype=DTYPES[dtype], device="meta")
        for name, (dtype, shape) in stored.items()
    }
    if engine.tables == "8bit":
        for i in range(engine.config.ngram_table_count):
            tensors[table_name(i)] = tensors[table_name(i)].to(INT8)
            rows = tensors[table_name(i)].shape[0]
            tensors[table_name(i, part="weight_scale")] = torch.empty(rows, dtype=F32, device="meta")
    return tensors


def load(model: Any, tensors: Mapping[str, Tensor]) -> list[Copy]:
    """Load the tensors; return all copies to the model's parameters."""
    copies = RecordedCopies(dict(model.named_parameters()))
    for name, tensor in tensors.items():
        copies.add_source(name, tensor)
    with copies:
        weightless_engine.load(model, tensors.items())
    return copies.copies


def parameters(engine: Engine) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and dtype of every parameter that a rank must have, by name."""
    config, tp, ep = engine.config, engine.tp, engine.ep
    hidden, heads = config.hidden_size, config.num_attention_heads // tp
    found = embedding_parameters(engine)

    def linear(name: str, *shape: int) -> None:
        found[name] = (shape, FP8 if engine.fp8 else BF16)
        if engine.fp8:
            *experts, height, width = shape
            found[f"{name}_scale_inv"] = ((*experts, -(-height // 128), -(-width // 128)), F32)

    found["lm_head.weight"] = ((config.vocab_size // tp, hidden), BF16)
    found["model.norm.weight"] = ((hidden,), BF16)
    for layer in (f"model.layers.{i}" for i in range(config.num_layers)):
        for half in range(2):
            attention, dense = f"{layer}.self_attn.{half}", f"{layer}.mlps.{half}"
            latents = config.q_lora_rank + config.kv_lora_rank + config.qk_rope_head_dim
            linear(f"{attention}.fused_qkv_a_proj_with_mqa.weight", latents, hidden)
            linear(f"{attention}.q_b_proj.weight", heads * config.qk_head_dim, config.q_lora_rank)
            both = heads * (config.qk_nope_head_dim + config.v_head_dim)
            linear(f"{attention}.kv_b_proj.weight", both, config.kv_lora_rank)
            linear(f"{attention}.o_proj.weight", hidden, heads * config.v_head_dim)
            linear(f"{dense}.gate_up_proj.weight", 2 * config.ffn_hidden_size // tp, hidden)
            linear(f"{dense}.down_proj.weight", hidden, config.ffn_hidden_size // tp)
            found[f"{attention}.q_a_layernorm.weight"] = ((config.q_lora_rank,), BF16)
            found[f"{attention}.kv_a_layernorm.weight"] = ((config.kv_lora_rank,), BF16)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                found[f"{layer}.{norm}.{half}.weight"] = ((hidden,), BF16)
        experts, width = config.n_routed_experts // ep, config.expert_ffn_hidden_size * ep // tp
        linear(f"{layer}.mlp.experts.w13_weight", experts, 2 * width, hidden)
        linear(f"{layer}.mlp.experts.w2_weight", experts, hidden, width)
        found[f"{layer}.mlp.router.classifier.weight"] = ((config.num_experts_total, hidden), F32)
        found[f"{layer}.mlp.router.e_score_correction_bias"] = ((config.num_experts_total,), F32)
    return found


def embedding_parameters(engine: Engine) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    config, tp, hidden = engine.config, engine.tp, engine.config.hidden_size
    words = (config.vocab_size // tp, hidden), BF16
    if not config.has_ngrams:
        return {"model.embed_tokens.weight": words}
    rows = sum(config.ngram_table_rows(i) for i in range(config.ngram_table_count))
    tables = {"values": ((rows, config.ngram_table_width // tp), INT8 if engine.tables == "8bit" else BF16)}
    if engine.tables == "8bit":
        tables["scales"] = ((rows,), F32)
    return {
        **{f"model.embed_tokens.ngram_tables.{name}": value for name, value in tables.items()},
        "model.embed_tokens.ngram_projection": ((hidden // tp, hidden), BF16),
        "model.embed_tokens.word_embeder.weight": words,
    }


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's parameters but scalars, which SGLang adds to the attention of an FP8 model."""
    return {name: tensor for name, tensor in model.named_parameters() if tensor.ndim > 0}


def held(model: nn.Module) -> dict[str, Tensor]:
    """Return every tensor that the modules hold, one for each memory."""
    found = {}
    for path, module in model.named_modules():
        for name, value in {**vars(module), **module._buffers, **module._parameters}.items():
            if isinstance(value, Tensor) and value.ndim > 0:
                found[value.untyped_storage()._cdata] = (f"{path}.{name}", value)
    return dict(found.values())


PARTS = {
    r".*\.w_[kv]c": ABSORBED,
    r".*\.rotary_emb\.cos_sin_cache": ROTARY,
    r"model\.embed_tokens\.ngram_tables\..*": Part.NGRAM_TABLES,
    r"model\.embed_tokens\.ngram_projection": Part.NGRAM_PROJECTIONS,
    r"model\.embed_tokens\.hash_.*": "constants",
}


def sizes_by_part(model: nn.Module) -> dict[str, int]:
    sizes: dict[str, int] = defaultdict(int)
    for name, tensor in held(model).items():
        own = (part for pattern, part in PARTS.items() if re.fullmatch(pattern, name))
        sizes[next(own, part_of(name))] += tensor.nbytes
    return sizes


def planned_sizes(engine: Engine) -> tuple[dict[str, int], int]:
    """Return the bytes of a rank by part, tables in host memory included, and those in host memory."""
    planned = shard_sizes(
        engine.config, tp=engine.tp, ep=engine.ep, weight_dtype="fp8" if engine.fp8 else "bf16",
        tables=engine.tables,
    )  # fmt: skip
    sizes = dict(planned.device_bytes)
    if engine.config.has_ngrams:
        sizes[Part.NGRAM_TABLES] += planned.host_bytes
    return sizes, planned.host_bytes


@pytest.mark.parametrize(("engine", "rank"), ENDS, ids=str)
def test_rank_holds_parameters_and_bytes_of_plan(build: Any, engine: Engine, rank: int) -> None:
    model = build(engine, rank)
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights(model).items()}
    assert found == parameters(engine)
    model.post_load_weights()
    assert {tensor.device.type for tensor in held(model).values()} == {"meta"}
    require_planned_bytes(model, engine)


def require_planned_bytes(model: nn.Module, engine: Engine) -> None:
    sizes = sizes_by_part(model)
    assert sizes.pop("constants", 0) < 1024
    assert sizes == planned_sizes(engine)[0]


@pytest.mark.parametrize("tables", ["device", "host", "8bit"])
def test_model_asks_for_host_memory_for_host_tables_alone(build: Any, tables: TablePlacement) -> None:
    engine, memory = Engine(tp=2, ep=2, tables=tables, config=one_layer(LITE)), NoMemory()
    build(engine, 1, memory)
    on_host = planned_sizes(engine)[1]
    # Nothing is pinned, as there is no GPU to pin it for.
    assert memory.asked[("cpu", False)] == on_host
    assert (on_host > 0) == (tables == "host")
    assert {place for place in memory.asked if place[1]} == set()


@pytest.mark.parametrize(("code_dtype", "scales"), [(None, False), (INT8, True)])
def test_tables_ask_for_pinned_memory_beside_gpu(code_dtype: torch.dtype | None, scales: bool) -> None:
    rows, width = 122_683_536, 128
    with NoMemory() as memory, set_default_torch_dtype(BF16):
        NgramTables(
            rows, width, TableStorage(place="host", code_dtype=code_dtype), device=torch.device("cuda")
        )
    assert memory.asked == Counter(
        {("cpu", True): rows * width * (1 if scales else 2), ("cuda", False): rows * 4 * scales}
    )


LOADED = [
    *(replace(engine, config=one_layer(engine.config)) for engine in ENGINES),
    Engine(tp=2, ep=2),
]


@pytest.mark.parametrize("engine", LOADED, ids=str)
def test_ranks_load_every_value_once_and_take_their_share(build: Any, engine: Engine) -> None:
    tensors = checkpoint(engine)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    taken: dict[str, list[Box]] = defaultdict(list)
    for rank in range(engine.tp):
        model = build(engine, rank)
        copies = load(model, tensors)
        require_planned_bytes(model, engine)
        written: dict[str, list[Box]] = defaultdict(list)
        for copy in copies:
            written[copy.target].append(copy.target_box)
            taken[copy.source].append(copy.source_box)
        for name, tensor in weights(model).items():
            assert times_covered(written[name], tuple(tensor.shape)) == {1}, (rank, name)
        assert not misplaced(copies, shapes, engine, rank)
    joined = {name: joined_shape(name, shapes) for name in taken}
    assert sorted("+".join(joined).split("+")) == sorted(shapes)
    for name, shape in joined.items():
        assert times_covered(taken[name], shape) == {engine.tp if is_replicated(name) else 1}, name


def joined_shape(names: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape of tensors that are joined along their first dimension."""
    parts = [shapes[name] for name in names.split("+")]
    return (sum(part[0] for part in parts), *parts[0][1:])


def is_replicated(name: str) -> bool:
    whole = ("q_a_proj", "kv_a_proj_with_mqa", "embedders.*weight_scale$")
    return part_of(name) in (Part.ROUTER, Part.NORMS) or bool(re.search("|".join(whole), name))


def misplaced(
    copies: Sequence[Copy], shapes: Mapping[str, tuple[int, ...]], engine: Engine, rank: int
) -> list[Copy]:
    """Return copies that take another rank's share, or put an expert or a half where another belongs."""
    first_expert = rank // (engine.tp // engine.ep) * (engine.config.n_routed_experts // engine.ep)
    return [
        copy
        for copy in copies
        if not takes_own_share(copy.source_box, joined_shape(copy.source, shapes), rank)
        or source_of(copy.target, copy.target_box, first_expert) not in copy.source
    ]


def takes_own_share(box: Box, shape: tuple[int, ...], rank: int) -> bool:
    """True if each dimension is whole, or the share of `rank` among as many ranks as such shares fill it."""
    return all(
        start == rank % (size // (stop - start)) * (stop - start)
        for (start, stop), size in zip(box, shape, strict=True)
    )


def source_of(target: str, box: Box, first_expert: int) -> str:
    """Return part of the name of the tensor that belongs into this box; "" if it needs no proof."""
    if "experts.w2_" in target:
        return f".experts.{first_expert + box[0][0]}.down_proj."
    if "experts.w13_" in target:
        return f".experts.{first_expert + box[0][0]}.{'up' if box[1][0] else 'gate'}_proj."
    if "gate_up_proj" in target:
        return ".up_proj." if box[0][0] else ".gate_proj."
    return ""


LOST = [
    "model.embed_tokens.weight",
    "model.ngram_embeddings.embedders.11.weight",
    "model.ngram_embeddings.post_projs.0.weight",
    "model.layers.0.self_attn.1.q_a_proj.weight",
    "model.layers.0.self_attn.0.kv_b_proj.weight",
    "model.layers.0.self_attn.0.kv_a_layernorm.weight",
    "model.layers.0.mlps.0.up_proj.weight",
    "model.layers.0.mlp.experts.0.gate_proj.weight",
    "model.layers.0.mlp.experts.31.down_proj.weight",
    "model.layers.0.mlp.router.e_score_correction_bias",
    "lm_head.weight",
]
OF_FP8 = [
    "model.layers.0.self_attn.0.o_proj.weight_scale_inv",
    "model.layers.0.mlp.experts.0.up_proj.weight_scale_inv",
]
REFUSED = [(name, Engine(tp=2, ep=2, config=one_layer(LITE))) for name in LOST]
REFUSED += [(name, Engine(tp=2, fp8=True, config=one_layer(LITE))) for name in OF_FP8]


@pytest.mark.parametrize(("name", "engine"), REFUSED, ids=str)
def test_load_refuses_checkpoint_without_tensor(build: Any, name: str, engine: Engine) -> None:
    tensors = checkpoint(engine)
    lost = tensors.pop(name)
    # A copy that was cut off loads and is refused at the end; so is one that has the tensor by another name.
    for stored in (tensors, {**tensors, f"model.layers.0.other.{name}": lost}):
        with pytest.raises(CheckpointMismatch, match=rf"lacks 1 tensors: {re.escape(name)}"):
            load(build(engine, 1), stored)


@pytest.mark.parametrize(("name", "engine"), REFUSED, ids=str)
@pytest.mark.parametrize("factor", [2, 0.5], ids=["twice", "half"])
def test_load_refuses_tensor_of_other_shape(build: Any, name: str, engine: Engine, factor: float) -> None:
    tensors = checkpoint(engine)
    for dimension in range(tensors[name].ndim):
        shape = [int(size * factor) if i == dimension else size for i, size in enumerate(tensors[name].shape)]
        changed = {**tensors, name: torch.empty(shape, dtype=tensors[name].dtype, device="meta")}
        with pytest.raises(CheckpointMismatch, match=rf"{re.escape(name)} has shape"):
            load(build(engine, 1), changed)
