"""Prometheus gauges of the number and memory of the experts.

They describe the model as built. Routing is not counted, because that would cost time in every layer of every
step.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any


def report_experts(layers: Sequence[Any]) -> None:
    """Set the gauges of this process from the `LongcatFlashMoE` of each layer."""
    experts, chosen, stored = _gauges()
    experts.labels(kind="routed").set(layers[0].num_experts)
    experts.labels(kind="identity").set(layers[0].zero_expert_num)
    chosen.set(layers[0].top_k)
    stored.set(sum(weight.nbytes for layer in layers for weight in layer.experts.parameters()))


@cache
def _gauges() -> tuple[Any, Any, Any]:
    # Imported late, as in ngram_tables.py.
    from prometheus_client import Gauge

    experts = Gauge(
        "serval_engine_experts",
        "Experts of a layer that a token chooses from, by kind: routed, or identity (these compute nothing).",
        labelnames=["kind"],
        multiprocess_mode="livemax",
    )
    chosen = Gauge(
        "serval_engine_experts_per_token",
        "Experts that a token chooses in a layer.",
        multiprocess_mode="livemax",
    )
    stored = Gauge(
        "serval_engine_expert_bytes",
        "Memory of the routed experts, all ranks together, as they are loaded.",
        multiprocess_mode="livesum",
    )
    return experts, chosen, stored
