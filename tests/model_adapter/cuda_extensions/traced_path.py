"""Prints what LongCat-Flash-Lite's path asks to compile on an absent GPU, and the table, as JSON.

Run by test_needed.py with the GPU's compute capability, such as 9.0.

The real model class is built at full size, with one layer, from tensors that have a device but no memory
(torch's FakeTensorMode), and computes decode batches, prefills and samples. Python runs as on the GPU up to
each kernel: launches of Triton and of compiled packages do nothing, and requests to compile are noted.

Attention is not run: a stand-in writes the KV cache and returns tensors of the right shape.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import sys
import tempfile
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from unittest.mock import MagicMock

import torch
from torch._subclasses import fake_tensor
from torch.overrides import TorchFunctionMode

from serval_sglang.cuda_extensions.imitation import capability_of_target
from serval_sglang.cuda_extensions.needed import (
    CAPABILITIES,
    FP8_CAPABILITIES,
    Extension,
    WeightFormat,
    needed_extensions,
)
from serval_sglang.known_configs import LITE
from serval_testkit.header_only_checkpoint import stored_fp8, stored_plain, write_header_only_checkpoint

# Packages with compiled code that cannot be loaded without a driver.
ABSENT = ("sgl_kernel", "deep_gemm")
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "fmt": "e4m3"}
CONFIG = dataclasses.replace(LITE, num_layers=1)
# Tokens, requests, tokens of each request that are cached: decode batches below and above the limits of
# kernels for few tokens, and prefills.
BATCHES = ((1, 1, 0), (8, 8, 0), (64, 64, 0), (512, 512, 0), (16, 1, 0), (8192, 2, 0))
# A cached prefix, which only FlashAttention 3 takes from the model in one piece.
ON_HOPPER = ((64, 2, 100),)

Requests = dict[str, list[Any]]


class StandIn(types.ModuleType):
    """A package of which every attribute is a function that does nothing."""

    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class StandInFinder:
    """Finds `ABSENT` packages. Norms of sgl_kernel are its own: Python that hands them to flashinfer."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name.partition(".")[0] not in ABSENT:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> StandIn:
        return StandIn(spec.name)

    def exec_module(self, module: StandIn) -> None:
        if module.__name__ == "sgl_kernel":
            own = importlib.machinery.PathFinder.find_spec("sgl_kernel")
            assert own is not None
            assert own.origin is not None
            found = importlib.util.spec_from_file_location(
                "sgl_kernel.elementwise", Path(own.origin).parent / "elementwise.py"
            )
            assert found is not None
            assert found.loader is not None
            norms = importlib.util.module_from_spec(found)
            found.loader.exec_module(norms)
            module.rmsnorm, module.fused_add_rmsnorm = norms.rmsnorm, norms.fused_add_rmsnorm


def imitate_gpu(major: int, minor: int) -> None:
    """Let torch answer as if there were such a GPU, and make tensors without memory on it."""
    properties = types.SimpleNamespace(
        name="absent GPU", major=major, minor=minor, total_memory=140 << 30, multi_processor_count=132,
        is_integrated=False,
    )  # fmt: skip
    answers: dict[str, Callable[..., Any]] = {
        "get_device_properties": lambda device=None: properties,
        "mem_get_info": lambda device=None: (139 << 30, 140 << 30),
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "is_current_stream_capturing": lambda: False,
        "current_stream": MagicMock(),
        "Stream": MagicMock(),
        "Event": MagicMock(),
        "_exchange_device": lambda device: 0,
        "_maybe_exchange_device": lambda device: 0,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    fake_tensor.init_gpu_context = lambda device: None
    fake_tensor.FakeTensorMode.avoid_device_init = property(lambda mode: True)  # type: ignore[assignment]
    sys.meta_path.insert(0, StandInFinder())  # type: ignore[arg-type]


def record_requests() -> Requests:
    """Import SGLang and replace whatever compiles or launches. Requests to compile appear in the result."""
    import flashinfer.jit.core
    import flashinfer.norm
    import sglang.kernels.jit.utils
    import sglang.srt.utils.common
    from sglang.kernels.jit.utils.compile import loader
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    requests: Requests = {"sglang": [], "flashinfer": [], "norms": [], "deep_gemm": []}

    def load_jit(*arguments: str, **options: object) -> Any:
        frame = sys._getframe(1)
        values = inspect.getargvalues(frame)
        factory = f"{frame.f_globals['__name__']}:{frame.f_code.co_name}"
        _note(requests["sglang"], [factory, [str(values.locals[name]) for name in values.args]])
        return MagicMock()

    for module in (sglang.kernels.jit.utils, sglang.kernels.jit.utils.compile, loader):
        module.load_jit = load_jit

    def build_and_load(specification: Any) -> Any:
        _note(requests["flashinfer"], specification.name)
        return MagicMock()

    flashinfer.jit.core.JitSpec.build_and_load = build_and_load
    for name in ("rmsnorm_cute", "fused_add_rmsnorm_cute"):
        record = lambda input, *rest, **options: _note(requests["norms"], input.shape[-1])  # noqa: E731
        setattr(flashinfer.norm, name, record)

    original = sglang.srt.utils.common.direct_register_custom_op

    def register(
        op_name: str, op_func: Any, mutates_args: Any, fake_impl: Any = None, target_lib: Any = None
    ) -> None:
        # On tensors without memory torch calls the second function; the first is what a GPU would run.
        original(op_name, op_func, mutates_args, fake_impl=op_func, target_lib=target_lib)

    sglang.srt.utils.common.direct_register_custom_op = register
    for launcher in (JITFunction, Autotuner):
        launcher.run = lambda kernel, *arguments, **options: MagicMock()

    from sglang.srt.layers.deep_gemm_wrapper import compile_utils

    def compile_all(kernel_type: Any, n: int, k: int, num_groups: int, m_list: object) -> None:
        _note(requests["deep_gemm"], [n, k])

    compile_utils._compile_deep_gemm_one_type_all = compile_all
    return requests


def _note(requests: list[Any], request: Any) -> None:
    if request not in requests:
        requests.append(request)


class NoValues(TorchFunctionMode):
    """Gives the values that such tensors do not have, and pins no memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.__int__, torch.Tensor.item):
            return 128
        if func is torch.Tensor.__bool__:
            return False
        return func(*args, **{key: value for key, value in (kwargs or {}).items() if key != "pin_memory"})


def build_model(weights: str) -> Any:
    """Build the model as a scheduler does, from a checkpoint without weights, and prepare what it loaded."""
    from sglang.srt.configs.load_config import LoadConfig
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.distributed import bootstrap
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_loader.loader import _get_quantization_config, _initialize_model
    from sglang.srt.model_loader.utils import set_default_torch_dtype
    from sglang.srt.plugins import load_plugins
    from sglang.srt.runtime_context import SpawnRanks, publish
    from sglang.srt.server_args import prepare_server_args

    from serval_sglang.gpu_flags import gpu_flags

    folder = Path(tempfile.mkdtemp())
    tensors = stored_fp8(CONFIG) if weights == "fp8" else stored_plain(CONFIG)
    quantization = {"quantization_config": FP8} if weights == "fp8" else {}
    write_header_only_checkpoint(folder, CONFIG, tensors, torch_dtype="bfloat16", **quantization)
    load_plugins()
    flags = [f"--model-path={folder}", "--device=cuda", "--skip-tokenizer-init", *gpu_flags(folder, [])]
    arguments = prepare_server_args(flags)
    publish(arguments, role="scheduler", ranks=SpawnRanks(world_rank=0, gpu_id=0))
    bootstrap._resolve_backend = lambda device: "gloo"
    bootstrap._resolve_dist_init_method = lambda dist_port: f"file://{folder / 'ranks'}"
    bootstrap.init_parallel_runtime(server_args=arguments, device="cuda", dist_port=0)
    model_config, load_config = ModelConfig.from_server_args(arguments), LoadConfig()
    quantisation = _get_quantization_config(model_config, load_config)
    with set_default_torch_dtype(model_config.dtype), torch.device("cuda"):
        model = _initialize_model(model_config, load_config, quantisation)
    model.post_load_weights()
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        # Scales of the KV cache are read by value, and this cache has none.
        if method is not None and not isinstance(module, RadixAttention):
            method.process_weights_after_loading(module)
    model.model.embed_tokens.allocate_ring(64, device="cuda", width=1)
    return model.eval()


def _zeros(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, device="cuda")


def _attention() -> Any:
    from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
    from sglang.srt.mem_cache.memory_pool import KVWriteLoc, MLATokenToKVPool

    pool = MLATokenToKVPool(
        4096, 1, torch.bfloat16, LITE.kv_lora_rank, LITE.qk_rope_head_dim, 2, "cuda", False
    )

    class Attention(AttentionBackend):  # type: ignore[misc]  # sglang is untyped
        token_to_kv_pool = pool

        def forward(
            self, q: Any, k: Any, v: Any, layer: Any, batch: Any, save_kv_cache: bool = True, **parts: Any
        ) -> torch.Tensor:
            if save_kv_cache and k is not None:
                pool.set_mla_kv_buffer(layer, KVWriteLoc.for_layer(batch, layer), k, parts["k_rope"])
            return q.new_empty(q.shape[0], layer.tp_q_head_num * layer.v_head_dim)  # type: ignore[no-any-return]

    return Attention()


def run_batch(model: Any, attention: Any, *, tokens: int, requests: int, cached: int) -> torch.Tensor:
    """Compute a batch as a model runner does, a decode step if every request has one token; return logits."""
    from sglang.srt.model_executor.forward_batch_info import (
        CaptureHiddenMode,
        ForwardBatch,
        ForwardMode,
        clamp_position,
    )
    from sglang.srt.model_executor.forward_context import ForwardContext, forward_context

    decode = tokens == requests and cached == 0
    lengths = _zeros(requests)
    batch = ForwardBatch(
        forward_mode=ForwardMode.DECODE if decode else ForwardMode.EXTEND,
        batch_size=requests,
        input_ids=_zeros(tokens),
        req_pool_indices=_zeros(requests),
        seq_lens=lengths,
        out_cache_loc=_zeros(tokens),
        seq_lens_sum=tokens,
    )
    batch.capture_hidden_mode = CaptureHiddenMode.NULL
    batch.seq_lens_cpu = [tokens // requests + cached] * requests
    batch.positions = clamp_position(lengths) if decode else _zeros(tokens)
    if not decode:
        for name in ("extend_seq_lens", "extend_prefix_lens", "extend_start_loc"):
            setattr(batch, name, _zeros(requests, dtype=torch.int32))
        batch.extend_seq_lens_cpu = [tokens // requests] * requests
        batch.extend_prefix_lens_cpu = [cached] * requests
        batch.extend_num_tokens = tokens
        batch.engram_history = _zeros(requests, LITE.emb_neighbor_num - 1, dtype=torch.int32)
    with forward_context(ForwardContext(attn_backend=attention)):
        logits: torch.Tensor = model(batch.input_ids, batch.positions, batch).next_token_logits
    return logits


def sample(logits: torch.Tensor) -> None:
    """Sample as SGLang's sampler does for requests with top-k, top-p and min-p."""
    import flashinfer.sampling
    from sglang.srt.layers import sampler

    flashinfer.sampling.get_seed_and_offset = lambda *arguments: (0, 0)
    rows = len(logits)
    top_p, top_k = _zeros(rows, dtype=torch.float32), _zeros(rows, dtype=torch.int32)
    sampler.top_k_top_p_sampling_from_probs(logits, top_k, top_p, filter_apply_order="joint")
    sampler.min_p_sampling_from_probs(logits, top_p)


def as_requested(extension: Extension) -> list[Any]:
    """Return the factory and the values of all its parameters, as `record_requests` notes them."""
    module, _, name = extension.factory.partition(":")
    factory = inspect.unwrap(getattr(importlib.import_module(module), name))
    bound = inspect.signature(factory).bind(*extension.arguments)
    bound.apply_defaults()
    return [extension.factory, [str(value) for value in bound.arguments.values()]]


def trace(weights: str, requests: Requests) -> None:
    """Run the path of a model with such weights; `requests` receives what it asks for."""
    # Kernels read addresses only to check that they are aligned.
    torch.Tensor.data_ptr = lambda tensor: 1 << 20  # type: ignore[method-assign,assignment]
    with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True), NoValues(), torch.no_grad():
        model = build_model(weights)
        attention = _attention()
        batches = BATCHES + (ON_HOPPER if torch.cuda.get_device_capability() == (9, 0) else ())
        for tokens, count, cached in batches:
            logits = run_batch(model, attention, tokens=tokens, requests=count, cached=cached)
        sample(logits)


def in_child(work: Callable[[], object]) -> Any:
    """Return the result of `work`, done in a copy of this process: SGLang builds one model in each."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(work()).encode())
        except BaseException:  # noqa: BLE001  # a child must not return into the parent's code
            traceback.print_exc()
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)


def main(capability: str) -> None:
    major, minor = (int(part) for part in capability.split("."))
    imitate_gpu(major, minor)
    with capability_of_target(major, minor):
        requests = record_requests()
        asked = {
            weights: in_child(lambda weights=weights: trace(weights, requests) or requests)
            for weights in get_args(WeightFormat)
            if weights != "fp8" or (major, minor) in FP8_CAPABILITIES
        }
        listed = {
            weights: [
                as_requested(extension)
                for extension in needed_extensions(LITE, weights=weights, capability=(major, minor))
            ]
            for weights in asked
        }
        for other in CAPABILITIES:
            for extension in needed_extensions(LITE, weights="bf16", capability=other, ranks=2):
                as_requested(extension)
    json.dump({"asked": asked, "listed": listed}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
