"""Identity experts of the mixture, with stand-ins for the routed experts."""

from contextlib import nullcontext
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

moe = pytest.importorskip("serval_sglang.layers.moe", reason="needs SGLang")
from sglang.srt.layers.moe.utils import MoeA2ABackend, MoeRunnerBackend  # noqa: E402

ROUTED, IDENTITY, TOP_K, SCALE, HIDDEN = 6, 3, 4, 6.0, 8


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(*, ep_rank: int = 0, tp_rank: int = 0, complete: bool = False, exchange: str = "none") -> Any:
        parallel = SimpleNamespace(moe_ep_rank=ep_rank, moe_tp_rank=tp_rank)
        monkeypatch.setattr(moe, "get_parallel", lambda: parallel)
        monkeypatch.setattr(moe, "post_experts_output_is_complete", lambda is_tp_path: complete)
        monkeypatch.setattr(moe, "get_moe_a2a_backend", lambda: MoeA2ABackend(exchange))
        made = moe.LongcatFlashMoE.__new__(moe.LongcatFlashMoE)
        torch.nn.Module.__init__(made)
        torch.manual_seed(1)
        bias = torch.randn(ROUTED + IDENTITY) / 10
        made.__dict__.update(
            router=_Router(torch.randn(ROUTED + IDENTITY, HIDDEN), bias),
            experts=_emptying_experts,
            top_k=TOP_K,
            num_experts=ROUTED,
            zero_expert_num=IDENTITY,
            routed_scaling_factor=SCALE,
        )
        return made

    return make


class _Router:
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.e_score_correction_bias = weight, bias

    def __call__(self, hidden_states: Tensor) -> Tensor:
        return hidden_states @ self.weight.t()


def _emptying_experts(hidden_states: Tensor, topk: Any) -> Tensor:
    """Expert e multiplies by e + 1, then empties its input as some of SGLang's runners do."""
    weights = torch.where(topk.topk_ids >= 0, topk.topk_weights * (topk.topk_ids + 1), 0.0).sum(dim=1)
    output = hidden_states * weights[:, None]
    hidden_states.set_(torch.empty(0))
    return output


def expected(made: Any, tokens: Tensor, *, with_identity: bool) -> Tensor:
    scores = made.router(tokens).softmax(dim=-1)
    chosen = (scores + made.router.e_score_correction_bias).topk(TOP_K).indices
    weights = scores.gather(1, chosen) * SCALE
    factors = torch.where(chosen < ROUTED, chosen + 1, int(with_identity))
    return tokens * (weights * factors).sum(dim=1, keepdim=True)


@pytest.mark.parametrize(
    ("rank", "with_identity"),
    [
        ({}, True),
        ({"ep_rank": 1}, False),
        ({"tp_rank": 1}, False),
        # Nothing is summed over ranks afterwards, so each adds its own.
        ({"ep_rank": 1, "complete": True}, True),
        # Each rank has tokens of its own.
        ({"ep_rank": 1, "exchange": "deepep"}, True),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 17])
def test_moe_scales_identity_experts_and_adds_them_on_one_rank(
    build: Any, rank: dict[str, Any], with_identity: bool, count: int
) -> None:
    made = build(**rank)
    tokens = torch.randn(count, HIDDEN)
    before = tokens.clone()
    torch.testing.assert_close(made.forward(tokens), expected(made, before, with_identity=with_identity))
    # The dense branch reads the tokens too.
    assert torch.equal(tokens, before)


class StandInExchange:
    """Experts divided among ranks with tokens of their own, as behind DeepEP: a slot goes to the rank that
    has its expert, a slot of id -1 nowhere, and results come back weighted and summed."""

    def __init__(self, ranks: int) -> None:
        self.experts_each = ROUTED // ranks
        self.sent: list[int] = []

    def __call__(self, hidden_states: Tensor, topk: Any) -> Tensor:
        output = torch.zeros_like(hidden_states)
        for token, slot in (topk.topk_ids >= 0).nonzero().tolist():
            expert = int(topk.topk_ids[token, slot])
            self.sent.append(expert // self.experts_each)
            output[token] += hidden_states[token] * (expert + 1) * topk.topk_weights[token, slot]
        return output


def test_moe_completes_tokens_of_each_rank_behind_deepep(build: Any) -> None:
    """Uses a stand-in for `--moe-a2a-backend deepep`, which needs GPUs."""
    torch.manual_seed(5)
    exchange = StandInExchange(ranks=2)
    for rank, tokens in enumerate(torch.randn(20, HIDDEN).split([13, 7])):
        made = build(ep_rank=rank, exchange="deepep")
        made.__dict__["experts"] = exchange
        torch.testing.assert_close(made.forward(tokens), expected(made, tokens, with_identity=True))
    # Both ranks get slots, but not all slots are sent: those of identity experts are not.
    assert set(exchange.sent) == {0, 1}
    assert 0 < len(exchange.sent) < 20 * TOP_K


class Experts(SimpleNamespace):
    """Attributes of SGLang's experts once they have been built."""

    def __init__(
        self,
        runner: str | None,
        *,
        method: object = None,
        computed_by_runner: bool = True,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(
            w13_weight=torch.empty(0, dtype=dtype),
            runner_backend=None if runner is None else MoeRunnerBackend(runner),
            quant_method=method,
            deprecate_flag=computed_by_runner,
            moe_runner_config=SimpleNamespace(inplace=True),
        )


@pytest.fixture
def construct(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Construct the mixture around experts that SGLang has built."""

    def make(experts: Experts, exchange: str = "none") -> Any:
        def upstream(self: Any) -> None:
            torch.nn.Module.__init__(self)
            self.__dict__["experts"] = experts

        monkeypatch.setattr(moe.UpstreamMoE, "__init__", upstream)
        monkeypatch.setattr(moe, "get_moe_a2a_backend", lambda: MoeA2ABackend(exchange))
        return moe.LongcatFlashMoE()

    return make


@pytest.mark.parametrize(
    ("runner", "exchange"),
    [("triton", "none"), ("deep_gemm", "none"), ("marlin", "none"), ("deep_gemm", "deepep")],
)
def test_moe_accepts_backends_known_to_drop_identity_slots(
    construct: Any, runner: str, exchange: str
) -> None:
    experts = Experts(runner)
    construct(experts, exchange)
    assert not experts.moe_runner_config.inplace


@pytest.mark.parametrize(
    ("runner", "exchange", "said"),
    [
        ("flashinfer_trtllm", "none", "--moe-runner-backend 'flashinfer_trtllm' is not known to drop"),
        ("triton", "flashinfer", "--moe-a2a-backend 'flashinfer' is not known to leave out"),
    ],
)
def test_moe_refuses_backend_not_known_to_drop_identity_slots(
    construct: Any, runner: str, exchange: str, said: str
) -> None:
    with pytest.raises(ValueError, match=f"{said}.*use one of"):
        construct(Experts(runner), exchange)


@pytest.mark.parametrize(
    ("dtype", "runner", "capability", "refused"),
    [
        (torch.float8_e4m3fn, "triton", (8, 0), True),
        (torch.float8_e4m3fn, "triton", (8, 9), False),
        (torch.float8_e4m3fn, "deep_gemm", (9, 0), False),
        (torch.float8_e4m3fn, "marlin", (8, 0), False),
        (torch.bfloat16, "triton", (8, 0), False),
    ],
)
def test_moe_refuses_fp8_experts_on_gpus_that_triton_cannot_compile_them_for(
    construct: Any,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    runner: str,
    capability: tuple[int, int],
    refused: bool,
) -> None:
    monkeypatch.setattr(moe, "is_cuda", lambda: True)
    monkeypatch.setattr(moe, "get_device_capability", lambda: capability)
    with pytest.raises(ValueError, match=r"8\.9 or above, this one has 8\.0") if refused else nullcontext():
        construct(Experts(runner, dtype=dtype))


@pytest.mark.parametrize(
    ("runner", "computed_by_runner"),
    [
        # Choices of "auto" for experts in bfloat16, without and with SGLANG_DEEPEP_BF16_DISPATCH.
        ("triton", False),
        ("triton", True),
        ("marlin", False),
        # Experts in float16.
        ("deep_gemm", False),
    ],
)
def test_moe_refuses_experts_that_deepep_cannot_feed(
    construct: Any, runner: str, computed_by_runner: bool
) -> None:
    with pytest.raises(ValueError, match=f"runner here is '{runner}'.*--moe-runner-backend deep_gemm, or"):
        construct(Experts(runner, computed_by_runner=computed_by_runner), "deepep")


@pytest.mark.parametrize("dispatched", ["deepep_normal", "deepep_ll"])
def test_upstream_takes_what_deepep_delivers_to_deep_gemm_alone(dispatched: str) -> None:
    """Runners that drop identity slots, in both of DeepEP's modes; its "auto" uses both."""
    import sglang.srt.layers.moe.moe_runner  # noqa: F401  # runners register themselves
    from sglang.srt.layers.moe.moe_runner.base import FusedOpPool, PermuteMethodPool

    taken = {
        runner
        for runner in moe._RUNNERS
        if (dispatched, runner) in PermuteMethodPool._pre_permute_methods
        or FusedOpPool.get_fused_func("deepep", runner) is not None
    }
    assert taken == {moe._DEEPEP_RUNNER}


@pytest.mark.parametrize(
    ("output", "error"),
    [("DeepEPNormalDispatchOutput", NotImplementedError), ("DeepEPLLDispatchOutput", AssertionError)],
)
def test_upstream_computes_nothing_behind_deepep_without_a_runner(
    output: str, error: type[Exception]
) -> None:
    """The first forward pass would end the engine."""
    from sglang.srt.layers.moe.ep_moe.layer import DeepEPMoE
    from sglang.srt.layers.moe.token_dispatcher import deepep

    experts = DeepEPMoE.__new__(DeepEPMoE)
    experts.__dict__.update(deprecate_flag=False, quant_config=None, use_w4afp8=False)
    kind = getattr(deepep, output)
    with pytest.raises(error):
        experts.run_moe_core(kind(*[None] * len(kind._fields)))


DIRECT_KERNELS = (
    ("gguf", "GGUFMoEMethod"),
    ("bitsandbytes", "BitsAndBytesMoEMethod"),
    ("w4afp8", "W4AFp8MoEMethod"),
    ("compressed_tensors.schemes.compressed_tensors_w4a8_fp8_moe", "CompressedTensorsW4AFP8MoE"),
)


@pytest.mark.parametrize(("module", "name"), DIRECT_KERNELS, ids=[name for _, name in DIRECT_KERNELS])
def test_moe_refuses_upstreams_direct_kernels(construct: Any, module: str, name: str) -> None:
    """Uses SGLang's own methods of quantisation, which declare such a kernel by having no runner."""
    method_class = getattr(import_module(f"sglang.srt.layers.quantization.{module}"), name)
    method = method_class.__new__(method_class)
    layer = torch.nn.Module()
    method.create_moe_runner(layer, SimpleNamespace())
    assert method.get_moe_runner_backend(layer) is None
    with pytest.raises(
        ValueError, match=f"the kernel of {name} is not known to drop .*checkpoint in bfloat16"
    ):
        construct(Experts(None, method=method))
