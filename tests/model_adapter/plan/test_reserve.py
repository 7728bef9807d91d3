"""Memory that SGLang leaves free, compared with SGLang's own arithmetic on GPUs of several sizes."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from serval_sglang.options import candidate_steps
from serval_sglang.plan.reserve import (
    BatchLimits,
    default_batch_limits,
    draft_graph_sets,
    reserve_bytes,
)

GIB = 1 << 30

GPUS = [
    # 512 + 1.5 * chunk + 128 * tp + 2 * graphs
    (79.6, 1, BatchLimits(8192, 256), 13440),
    (140.4, 8, BatchLimits(8192, 512), 14848),
    (180.0, 1, BatchLimits(16384, 512), 26240),
    (44.0, 1, BatchLimits(4096, 32), 6848),
    (31.0, 4, BatchLimits(4096, 160), 7488),
    (15.0, 1, BatchLimits(2048, 8), 3728),
]


@pytest.mark.parametrize(("gib", "tp", "limits", "mib"), GPUS)
def test_reserve_bytes_adds_up(gib: float, tp: int, limits: BatchLimits, mib: int) -> None:
    memory = round(gib * GIB)
    assert default_batch_limits(memory, tp=tp) == limits
    assert reserve_bytes(limits, memory, tp=tp) == mib << 20


def test_reserve_bytes_is_at_least_ten_gib_on_large_gpus() -> None:
    small = BatchLimits(2048, 8)
    assert reserve_bytes(small, 80 * GIB, tp=1) == 10 * GIB
    assert reserve_bytes(small, 50 * GIB, tp=1) < 10 * GIB


def test_reserve_bytes_adds_graphs_to_the_least_reserve() -> None:
    limits = BatchLimits(2048, 8)
    assert reserve_bytes(limits, 80 * GIB, tp=1, graph_sets=3.5) == 10 * GIB + (40 << 20)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_draft_graph_sets_are_those_that_sglang_captures(steps: int) -> None:
    state = pytest.importorskip("sglang.srt.speculative.adaptive_runtime_state", reason="needs SGLang")
    captured: list[float] = []

    class Worker:
        """Counts as EAGLEWorkerV2 captures: draft graphs of one layer in fourteen, then the model's."""

        speculative_num_steps = steps

        def build_adaptive_runtime_state(self, *, speculative_num_steps: int, **_: Any) -> None:
            captured.append(((speculative_num_steps > 1) + 1) / 14 + 1)

        def apply_runtime_state(self, _: Any) -> None:
            pass

    policy = SimpleNamespace(
        candidate_steps=candidate_steps(steps),
        set_cuda_graph_bs=lambda _: None,
        cuda_graph_bs_for_step=lambda _: [1, 2],
    )
    worker = Worker()
    # The state of the first steps is captured before the others.
    worker.build_adaptive_runtime_state(speculative_num_steps=steps)
    controller = state.AdaptiveController(worker, policy)
    controller.register(None, steps=steps)
    controller._activate = lambda _: None
    controller.init_states([1, 2])
    assert draft_graph_sets(steps, num_layers=14) == pytest.approx(sum(captured))


Upstream = Callable[..., tuple[BatchLimits, float]]


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch) -> Upstream:
    """SGLang's limits, and the share of memory for weights and KV cache, for latent attention on a GPU."""
    hook = pytest.importorskip("sglang.srt.arg_groups.memory_hook", reason="needs SGLang")
    from sglang.srt.arg_groups import cuda_graph_hook, overrides
    from sglang.srt.arg_groups.model_overrides import qwen3_vl
    from sglang.srt.model_executor.cuda_graph_config import CudaGraphConfig, PhaseConfig

    # SGLang keeps given and resolved flags apart; here both are the attributes of one object.
    for module in (hook, overrides, cuda_graph_hook):
        for view in {"resolving_view", "resolved_view"} & vars(module).keys():
            monkeypatch.setattr(module, view, lambda args: args)
    for module in (hook, overrides):
        monkeypatch.setattr(module, "use_mla_backend", lambda _: True)
    monkeypatch.setattr(hook, "declare_resolution", lambda args, _, **found: args.__dict__.update(found))
    monkeypatch.setattr(hook, "model_config_of", lambda _: SimpleNamespace(is_multimodal=False))
    monkeypatch.setattr(hook, "attn_dp_enabled_of", lambda _: False)
    monkeypatch.setattr(hook, "get_platform", lambda: SimpleNamespace(is_xpu=False))
    monkeypatch.setattr(qwen3_vl, "expand_multimodal_decode_graph_to_running_limit", lambda *_: None)

    def resolve(gib: float, *, tp: int, chunk: int | None = None, prefill_graphs: str) -> tuple[Any, float]:
        monkeypatch.setattr(hook, "get_device_memory_capacity", lambda _: gib * 1024)
        args = SimpleNamespace(
            device="cuda", tp_size=tp, pp_size=1, chunked_prefill_size=chunk, mem_fraction_static=None,
            cuda_graph_config=CudaGraphConfig(prefill=PhaseConfig(backend=prefill_graphs)),
            max_running_requests=None, max_total_tokens=None, model_path="/models/LongCat-Flash-Lite",
            disaggregation_mode="null", moe_a2a_backend="none", speculative_algorithm=None,
            disable_cuda_graph_padding=False, enable_kv_cache_sharding=False, dcp_size=1,
            enable_symm_mem=False,
        )  # fmt: skip
        hook.handle_gpu_memory_settings(args)
        limits = BatchLimits(args.chunked_prefill_size, args.cuda_graph_config.decode.max_bs)
        return limits, args.mem_fraction_static

    return resolve


@pytest.mark.parametrize("chunk", [None, 4096])
@pytest.mark.parametrize(("gib", "tp", "_limits", "_mib"), GPUS)
def test_reserve_bytes_equals_sglangs(
    upstream: Upstream, gib: float, tp: int, _limits: BatchLimits, _mib: int, chunk: int | None
) -> None:
    memory = gib * GIB
    limits, static = upstream(gib, tp=tp, chunk=chunk, prefill_graphs="disabled")
    if chunk is None:
        assert default_batch_limits(round(memory), tp=tp) == limits
    assert round(1 - reserve_bytes(limits, round(memory), tp=tp) / memory, 3) == static


def test_sglang_keeps_1536_mib_for_prefill_graphs_unless_they_are_disabled(upstream: Upstream) -> None:
    (_, without), (_, with_graphs) = (
        upstream(140.4, tp=1, prefill_graphs=backend) for backend in ("disabled", "breakable")
    )
    assert (without - with_graphs) * 140.4 == pytest.approx(1.5, abs=0.15)
