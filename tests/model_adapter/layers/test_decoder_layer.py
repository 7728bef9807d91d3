"""Conditions for one sum of experts and dense branch, and its use. Engine tests run the whole layer."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

decoder_layer = pytest.importorskip("serval_sglang.layers.decoder_layer", reason="needs SGLang")
from sglang.srt.layers.layer_boundary.contracts import BatchVariant  # noqa: E402
from sglang.srt.layers.layer_boundary.layout import SumGroup  # noqa: E402

SETTING = {
    "tp_size": 2,
    "attention_dp": False,
    "variants": (BatchVariant.ORDINARY,),
    "layouts": ("all rows", "all rows"),
    "groups": (SumGroup.MOE_OUTPUT, SumGroup.TP),
    "expert_ranks": [0, 1],
    "complete": False,
    "quantised": False,
}


def plan(setting: dict[str, Any], place: int) -> Any:
    output = SimpleNamespace(layout=setting["layouts"][place], group=setting["groups"][place])
    return SimpleNamespace(paths={kind: SimpleNamespace(output=output) for kind in setting["variants"]})


@pytest.mark.parametrize(
    ("changed", "shared"),
    [
        ({}, True),
        ({"tp_size": 1, "groups": (None, None)}, True),
        ({"attention_dp": True}, False),
        ({"variants": tuple(BatchVariant)}, False),
        ({"layouts": ("all rows", "a slice")}, False),
        # Experts are on other ranks than the dense branch, or their own exchange has already summed them.
        ({"expert_ranks": [0]}, False),
        ({"complete": True}, False),
        ({"groups": (None, SumGroup.TP)}, False),
        ({"groups": (SumGroup.MOE_OUTPUT, SumGroup.ATTN_TP)}, False),
        ({"quantised": True}, False),
    ],
)
def test_one_sum_requires_same_rows_and_ranks(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], shared: bool
) -> None:
    setting = {**SETTING, **changed}
    parallel = SimpleNamespace(tp_size=setting["tp_size"], tp_group=SimpleNamespace(ranks=[0, 1]))
    comm = SimpleNamespace(enable_quant_communications=setting["quantised"])
    replaced = {
        "get_parallel": lambda: parallel,
        "is_dp_attention_enabled": lambda: setting["attention_dp"],
        "post_experts_reduction_group": lambda: SimpleNamespace(ranks=setting["expert_ranks"]),
        "post_experts_output_is_complete": lambda is_tp_path: setting["complete"],
        "get_exec": lambda: SimpleNamespace(comm=comm),
    }
    for name, value in replaced.items():
        monkeypatch.setattr(decoder_layer, name, value)
    assert decoder_layer._owe_one_sum(plan(setting, 0), plan(setting, 1)) is shared


class Boundary:
    """A stage that records calls and returns tensors unchanged."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def __getattr__(self, call: str) -> Any:
        def noted(*arguments: Any) -> Any:
            self.calls.append(f"{self.name}.{call}")
            tensors = [argument for argument in arguments if isinstance(argument, torch.Tensor)]
            return sum(tensors[1:], tensors[0]) if call == "merge_branch" else tensors[0]

        return noted


@pytest.mark.parametrize(
    ("one_sum", "ending"),
    [
        (True, ["second_ffn.finish"]),
        (False, ["second_ffn.finish", "moe.branch_output", "moe.merge_branch"]),
    ],
)
@pytest.mark.parametrize("tokens", [0, 3])
def test_decoder_layer_adds_experts_once(one_sum: bool, ending: list[str], tokens: int) -> None:
    calls: list[str] = []
    layer = decoder_layer.LongcatFlashDecoderLayer.__new__(decoder_layer.LongcatFlashDecoderLayer)
    torch.nn.Module.__init__(layer)
    for name in ("attn", "moe", "first_ffn", "second_attn", "second_ffn"):
        setattr(layer, f"{name}_boundary", Boundary(name, calls))
    layer.__dict__["one_sum"] = one_sum
    layer.__dict__["self_attn"] = [lambda hidden_states, **_: hidden_states + 1] * 2
    layer.__dict__["mlps"] = [lambda hidden: hidden * 2] * 2
    layer.__dict__["mlp"] = lambda hidden: hidden * 10
    layer.overlap_experts(None, up_to_tokens=64)
    output, _ = layer.forward(None, torch.ones(tokens, 4), None, None, None)
    # attention: 2; dense: 4, attention: 5, dense: 10; experts: 20
    assert output.tolist() == [[30.0] * 4] * tokens
    assert calls[-len(ending) :] == ending
