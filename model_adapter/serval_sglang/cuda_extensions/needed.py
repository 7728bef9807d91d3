"""The table: which extensions a model of these sizes needs on a GPU, and the functions that build them.

tests/model_adapter/cuda_extensions/test_needed.py runs the model's CUDA path on tensors without memory,
records what it asks SGLang to build, and compares. Imports neither SGLang nor flashinfer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from serval_sglang.config import LongcatConfig

# A compute capability, as (9, 0).
Capability = tuple[int, int]
WeightFormat = Literal["bf16", "fp8"]

CAPABILITIES: tuple[Capability, ...] = ((8, 0), (9, 0), (10, 0))
FP8_CAPABILITIES: tuple[Capability, ...] = ((9, 0), (10, 0))

# Activations are in the checkpoint's dtype.
_DTYPE = torch.bfloat16
_FP8_BLOCK = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A function of SGLang or flashinfer that builds a shared library, and its arguments.

    `factory` is "module:function". `used` says where SGLang calls it, and for what.
    """

    factory: str
    arguments: tuple[object, ...] = ()
    used: str

    @property
    def name(self) -> str:
        """Its factory's module and arguments, short enough for a line of a table."""
        module, _, function = self.factory.rpartition(":")
        shown = ", ".join(str(argument).removeprefix("torch.") for argument in self.arguments)
        return f"{module.rpartition('.')[2]}.{function}({shown})"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuOnly:
    """Code that only a process with a GPU can compile, and the reason."""

    name: str
    reason: str


def needed_extensions(
    config: LongcatConfig, *, weights: WeightFormat, capability: Capability, ranks: int = 1
) -> list[Extension]:
    """Return what an engine of `ranks` tensor-parallel ranks builds until it has answered a sampled request.

    Raises `ValueError` for FP8 weights on other GPUs than Hopper and Blackwell: other code computes them.
    """
    if weights == "fp8" and capability not in FP8_CAPABILITIES:
        raise ValueError(f"FP8 weights are listed for {FP8_CAPABILITIES} alone, got {capability!r}.")
    found = [*_every_step(config, capability), _sampling()]
    if weights == "fp8":
        found += _fp8()
    elif capability[0] >= 9:
        found.append(_first_projection(config))
    if capability[0] == 10:
        found += _blackwell_attention(config)
    if ranks > 1:
        found += _all_reduce(ranks)
    return found


def needed_on_gpu(config: LongcatConfig, *, weights: WeightFormat, capability: Capability) -> list[GpuOnly]:
    """Return what is compiled only on a GPU, or anew in each process."""
    found = [
        GpuOnly(
            name=f"flashinfer.norm, widths {', '.join(str(width) for width in _norm_widths(config))}",
            reason="CuTe DSL compiles it in each process and keeps nothing",
        ),
        GpuOnly(
            name="Triton kernels, ours and SGLang's; torch.compile of the sum over experts",
            reason="keyed by the GPU; seconds, kept in SGLANG_CACHE_DIR",
        ),
    ]
    if capability[0] == 10:
        found.append(
            GpuOnly(
                name="attention of flashinfer's trtllm-gen",
                reason="comes compiled, from NVIDIA's server at first use or in the package flashinfer-cubin",
            )
        )
    if weights == "fp8":
        shapes = ", ".join(f"{n} x {k}" for n, k in deep_gemm_shapes(config))
        found.append(
            GpuOnly(
                name=f"DeepGEMM, outputs x inputs {shapes}",
                reason="picks kernels by running them; `python -m sglang.compile_deep_gemm`",
            )
        )
    return found


def deep_gemm_shapes(config: LongcatConfig) -> list[tuple[int, int]]:
    """Return (outputs, inputs) of every FP8 product outside the experts, on one rank."""
    heads, hidden = config.num_attention_heads, config.hidden_size
    return [
        (_latents(config), hidden),
        (heads * (config.qk_nope_head_dim + config.qk_rope_head_dim), config.q_lora_rank),
        (heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank),
        (hidden, heads * config.v_head_dim),
        (2 * config.ffn_hidden_size, hidden),
        (hidden, config.ffn_hidden_size),
    ]


def _every_step(config: LongcatConfig, capability: Capability) -> Iterator[Extension]:
    yield Extension(
        factory="sglang.kernels.ops.attention.clamp_position:_jit_clamp_position_module",
        arguments=(torch.int64,),
        used="ForwardBatch.init_new: positions of a decode batch",
    )
    yield Extension(
        factory="sglang.kernels.ops.activation.activation:activation_module",
        arguments=(_DTYPE,),
        used="SiluAndMul.forward_cuda and the Triton MoE runner: dense MLPs and experts",
    )
    yield Extension(
        factory="sglang.kernels.ops.attention.rope:_jit_fused_rope_module",
        arguments=(False, config.qk_rope_head_dim, _DTYPE, _DTYPE),
        used="RotaryEmbedding.forward_cuda: queries and keys",
    )
    if capability[0] >= 9:
        size = _DTYPE.itemsize
        yield Extension(
            factory="sglang.kernels.ops.kvcache.set_mla_kv_buffer:set_mla_kv_buffer_module",
            arguments=(config.kv_lora_rank * size, config.qk_rope_head_dim * size, True),
            used="MLATokenToKVPool.set_mla_kv_buffer: writes to the KV cache (Triton before Hopper)",
        )


def _first_projection(config: LongcatConfig) -> Extension:
    return Extension(
        factory="sglang.kernels.ops.gemm.dsv3_fused_a_gemm:dsv3_fused_a_gemm_module",
        arguments=(config.hidden_size, _latents(config), True),
        used="DeepseekV2AttentionMLA.prepare_qkv_latent: up to 16 tokens, bfloat16 weights",
    )


def _fp8() -> Iterator[Extension]:
    layouts = {
        "Fp8LinearMethod.apply: inputs of DeepGEMM, scales by column": False,
        "the Triton MoE runner: inputs of the experts, scales by row": True,
    }
    for used, by_row in layouts.items():
        yield Extension(
            factory="sglang.kernels.ops.quantization.per_token_group_quant:_jit_module",
            # from, to, group, packed scales, scales by row, aligned, with SiLU, masked, dependent launch
            arguments=(_DTYPE, torch.float8_e4m3fn, _FP8_BLOCK, False, by_row, True, False, False, True),
            used=used,
        )


def _sampling() -> Extension:
    return Extension(
        factory="flashinfer.jit.sampling:gen_sampling_module",
        used="Sampler: the first request with top-k, top-p or min-p",
    )


def _blackwell_attention(config: LongcatConfig) -> Iterator[Extension]:
    size = _DTYPE.itemsize
    yield Extension(
        factory="sglang.kernels.ops.attention.set_mla_kv_concat_q:set_mla_kv_concat_q_module",
        arguments=(config.kv_lora_rank * size, config.qk_rope_head_dim * size, True),
        used="TRTLLMMLABackend: decode",
    )
    yield Extension(
        factory="sglang.kernels.ops.attention.fixup_zero_kv:_jit_fixup_module",
        arguments=(_DTYPE,),
        used="TRTLLMMLABackend: a prefill in chunks of the prefix",
    )


def _all_reduce(ranks: int) -> Iterator[Extension]:
    module = "sglang.kernels.ops.communication.all_reduce"
    used = "CustomAllReduceV2: sums over the ranks of one machine"
    yield Extension(factory=f"{module}:_init_communicator", used=used)
    yield Extension(factory=f"{module}:_init_ipc_manager", used=used)
    yield Extension(factory=f"{module}:get_all_reduce_module", arguments=(_DTYPE, ranks), used=used)


def _latents(config: LongcatConfig) -> int:
    return config.q_lora_rank + config.kv_lora_rank + config.qk_rope_head_dim


def _norm_widths(config: LongcatConfig) -> list[int]:
    return [config.hidden_size, config.q_lora_rank, config.kv_lora_rank]
