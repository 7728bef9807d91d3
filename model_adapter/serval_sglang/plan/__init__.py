"""Arithmetic to determine if a deployment fits its GPUs; needs no weights, no GPU and no torch."""

from serval_sglang.plan.fit import CONCURRENCY_LENGTHS, Deployment, Plan, alternatives, plan_deployment
from serval_sglang.plan.shard_sizes import PlanError, ShardSizes, shard_sizes

__all__ = [
    "CONCURRENCY_LENGTHS",
    "Deployment",
    "Plan",
    "PlanError",
    "ShardSizes",
    "alternatives",
    "plan_deployment",
    "shard_sizes",
]
