"""One rank of an engine with Serval's model of any size, without other processes, GPUs or memory for weights.

SGLang's own loader builds and loads the model on torch's "meta" device, where a tensor has shape, dtype and
device but no memory. What differs from an engine on a GPU:

- SGLang resolves its arguments for `--device cpu`, because there is no GPU to ask; then the resolved device
  is overridden. Modules are imported on a machine without a GPU, so they take no branch for CUDA, and as this
  is not a CPU engine, none for the CPU either: experts are sliced as on a GPU. Two modules are told that they
  are on CUDA where that alone decides about sizes.
- There are no process groups. SGLang 0.5.23 derives a rank's place from what the launcher states
  (`_configure_context` in srt/runtime_context.py), and building a model only asks groups for their ranks.
- Hooks are replaced attributes, undone at the end, so that other tests find upstream's classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sglang.srt.layers.rotary_embedding.base as rotary_base
import sglang.srt.layers.rotary_embedding.factory as rotary_factory
import sglang.srt.layers.rotary_embedding.rope_variant as rotary
import sglang.srt.models.longcat_flash as upstream
import torch
from sglang.srt.configs.load_config import LoadConfig
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.layers.dp_attention import initialize_dp_attention_flags
from sglang.srt.layers.moe import initialize_moe_config
from sglang.srt.layers.quantization.fp8_utils import initialize_fp8_gemm_config
from sglang.srt.model_loader.loader import DefaultModelLoader
from sglang.srt.model_loader.utils import set_default_torch_dtype
from sglang.srt.runtime_context import SpawnRanks, create_context, use_context
from sglang.srt.server_args import ServerArgs
from sglang.srt.utils.common import reserve_rope_cache_for_long_sequences
from sglang.srt.utils.hf_transformers.common import _CONFIG_REGISTRY
from torch import Tensor, nn

from serval_sglang.layers.decoder_layer import LongcatFlashDecoderLayer
from serval_sglang.layers.moe import LongcatFlashMoE
from serval_sglang.layers.ngram_embedding import NgramEmbedding
from serval_sglang.plugin.sglang_config import LongcatFlashConfig

META = torch.device("meta")


@contextmanager
def own_model_in_place() -> Iterator[pytest.MonkeyPatch]:
    """Make SGLang in this process build Serval's model, on any device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SGLANG_EXTERNAL_MODEL_PACKAGE", "serval_sglang.models")
        patch.setitem(_CONFIG_REGISTRY, "longcat_flash", LongcatFlashConfig)
        for own in (LongcatFlashMoE, LongcatFlashDecoderLayer, NgramEmbedding):
            patch.setattr(upstream, own.__name__, own)
        # Dequantises the second projection of attention to bfloat16 as on a GPU, in plain torch.
        patch.setattr(upstream, "_is_cuda", True)
        # The table of rotary angles is kept for all models of a process, and asks for the machine's device.
        patch.setattr(rotary_factory, "_ROPE_DICT", {})
        patch.setattr(rotary, "get_device", lambda: "meta")
        patch.setattr(rotary_base, "_is_cuda", True)
        yield patch


@contextmanager
def engine_rank(folder: Path, *, tp: int, ep: int, rank: int) -> Iterator[ServerArgs]:
    """Make this process rank `rank` of an engine that serves the checkpoint in `folder`."""
    arguments = ServerArgs(
        model_path=str(folder), device="cpu", tp_size=tp, ep_size=ep, skip_tokenizer_init=True
    )
    placed = create_context(arguments, role="scheduler", ranks=SpawnRanks(world_rank=rank, gpu_id=0))
    with use_context(placed):
        placed.override("weightless_engine", device="meta")
        placed.parallel.override_permanently(**_groups(tp, ep, rank))
        initialize_dp_attention_flags(arguments)
        initialize_moe_config()
        initialize_fp8_gemm_config()
        yield arguments


def _groups(tp: int, ep: int, rank: int) -> dict[str, Any]:
    """Return stand-ins for the groups of a rank. Groups of the same ranks are the same object, as upstream's
    are: layers compare them to decide which sums may be joined."""
    width = tp // ep
    first = rank - rank % width
    members = {
        "tp_group": range(tp),
        "attn_tp_group": range(tp),
        "moe_ep_group": range(rank % width, tp, width),
        "moe_tp_group": range(first, first + width),
    }
    made = {
        ranks: SimpleNamespace(
            ranks=list(ranks), world_size=len(ranks), rank_in_group=ranks.index(rank), cpu_group=None
        )
        for ranks in members.values()
    }
    return {name: made[ranks] for name, ranks in members.items()}


def build(arguments: ServerArgs) -> Any:
    """Return the model that SGLang builds for the published rank."""
    config = ModelConfig.from_server_args(arguments)
    model = DefaultModelLoader(LoadConfig()).initialize_model_for_startup(
        model_config=config, device_config=SimpleNamespace(device=META)
    )
    reserve_rope_cache_for_long_sequences(model, config)
    # SGLang reads the values of these scalars, which the checkpoint does not have.
    for module in model.modules():
        for name in {"k_scale", "v_scale"} & module._parameters.keys():
            module.register_parameter(name, nn.Parameter(torch.tensor(-1.0), requires_grad=False))
    return model


def load(model: Any, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Load `weights` as SGLang does, including what its quantisation methods do afterwards."""
    # The device is the one to move layers to for what follows loading; for the CPU none is moved.
    with set_default_torch_dtype(torch.bfloat16):
        DefaultModelLoader.load_weights_and_postprocess(model, weights, torch.device("cpu"))
