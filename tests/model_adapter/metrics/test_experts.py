"""The gauges of the experts have the layers' own figures."""

from types import SimpleNamespace

import torch
from prometheus_client import REGISTRY
from torch import nn

from serval_sglang.metrics.experts import report_experts


def test_report_experts_sets_gauges_from_layers() -> None:
    experts = nn.Module()
    experts.w13_weight = nn.Parameter(torch.zeros(4, 6, 2, dtype=torch.bfloat16))
    experts.w2_weight = nn.Parameter(torch.zeros(4, 2, 3))
    layer = SimpleNamespace(num_experts=4, zero_expert_num=2, top_k=3, experts=experts)
    report_experts([layer, layer])
    assert REGISTRY.get_sample_value("serval_engine_experts", {"kind": "routed"}) == 4
    assert REGISTRY.get_sample_value("serval_engine_experts", {"kind": "identity"}) == 2
    assert REGISTRY.get_sample_value("serval_engine_experts_per_token") == 3
    assert REGISTRY.get_sample_value("serval_engine_expert_bytes") == 2 * (48 * 2 + 24 * 4)
