"""Memory left after weights and reserve, and the verdict on it."""

from dataclasses import replace
from typing import Any

import pytest

from serval_kernels.ngram_context import ring_columns
from serval_sglang.known_configs import LITE, LITE_SPARSE
from serval_sglang.plan import Deployment, alternatives, plan_deployment
from serval_sglang.plan.fit import index_key_bytes, kv_bytes_per_token
from serval_sglang.plan.shard_sizes import PlanError

GIB = 1 << 30
H100, H200 = 79.6, 140.4


def deployment(gpu_gib: float, **changes: Any) -> Deployment:
    given = Deployment(
        config=LITE,
        gpu_memory_bytes=round(gpu_gib * GIB),
        gpus=1,
        tp=1,
        ep=1,
        weight_dtype="bf16",
        kv_dtype="bf16",
        tables="device",
        context_tokens=LITE.max_position_embeddings,
        runtime_bytes=GIB,
    )
    return replace(given, **changes)


def test_kv_bytes_per_token_of_lite() -> None:
    assert kv_bytes_per_token(LITE, "bf16") == 32_256
    assert kv_bytes_per_token(LITE, "fp8") == 16_128


def test_kv_bytes_per_token_of_sparse_attention_include_the_indexers_keys() -> None:
    # 128 values in FP8 and one scale, in the first attention of each of 14 layers, whatever --kv-dtype.
    assert index_key_bytes(LITE_SPARSE) == 132
    assert kv_bytes_per_token(LITE_SPARSE, "bf16") == 32_256 + 14 * 132
    assert kv_bytes_per_token(LITE_SPARSE, "fp8") == 16_128 + 14 * 132


def test_sparse_attention_plans_its_whole_context_without_drafts_or_8bit_tables() -> None:
    sparse = {"config": LITE_SPARSE, "context_tokens": LITE_SPARSE.max_position_embeddings}
    plan = plan_deployment(deployment(H200, gpus=2, tp=2, **sparse))
    assert plan.fits
    assert plan.weights_bytes["indexer"] == 2 * 14 * (16 * 128 * 1536 + 128 * 3072 + 128 + 16 * 3072)
    assert plan.concurrent_requests[983_040] == plan.kv_tokens // 983_040 >= 1
    with pytest.raises(PlanError, match="--mtp-steps is not supported with sparse attention"):
        plan_deployment(deployment(H200, gpus=2, tp=2, mtp_steps=1, **sparse))
    with pytest.raises(PlanError, match="no 8-bit tables"):
        plan_deployment(deployment(H200, gpus=2, tp=2, tables="8bit", **sparse))
    short = plan_deployment(deployment(H100, gpus=1, tp=1, **sparse))
    assert not short.fits
    assert all(change.get("tables") != "8bit" for change in alternatives(short))


@pytest.mark.parametrize(
    ("gpu_gib", "changes", "fits"),
    [
        # Reported to work: FP8 on one H200. The model card asks for at least two GPUs of 80 GB in bf16.
        (H200, {"weight_dtype": "fp8"}, True),
        (H200, {}, False),
        (H100, {}, False),
        (H100, {"gpus": 4, "tp": 4}, True),
        (H200, {"gpus": 2, "tp": 2}, True),
        # The purpose of tables outside GPU memory.
        (H100, {"weight_dtype": "fp8"}, False),
        (H100, {"weight_dtype": "fp8", "tables": "host"}, True),
    ],
)
def test_plan_agrees_with_known_deployments(gpu_gib: float, changes: dict[str, Any], *, fits: bool) -> None:
    assert plan_deployment(deployment(gpu_gib, **changes)).fits is fits


def test_plan_accounts_for_every_byte_of_gpu() -> None:
    plan = plan_deployment(deployment(H200, weight_dtype="fp8"))
    used = sum(plan.weights_bytes.values()) + plan.reserve_bytes + plan.deployment.runtime_bytes
    assert used + plan.kv_bytes == plan.deployment.gpu_memory_bytes
    assert 0 <= plan.kv_bytes - plan.kv_tokens * 32_256 < 32_256
    assert plan.concurrent_requests == {
        4_096: plan.kv_tokens // 4_096,
        32_768: plan.kv_tokens // 32_768,
        262_144: plan.kv_tokens // 262_144,
    }


def test_plan_with_drafts_counts_layer_cache_and_reserved_places() -> None:
    plain = plan_deployment(deployment(H200, weight_dtype="fp8", max_running_requests=64))
    drafting = plan_deployment(deployment(H200, weight_dtype="fp8", max_running_requests=64, mtp_steps=3))
    # 0.511 B parameters in bfloat16, and the second copy of one attention's projection.
    added = sum(drafting.weights_bytes.values()) - sum(plain.weights_bytes.values())
    assert added == pytest.approx(2 * 0.511e9 + 2 * 32 * 256 * 512, rel=2e-3)
    # One attention beside 28.
    assert drafting.kv_bytes_per_token == 32_256 * 29 // 28
    assert drafting.concurrent_requests[4_096] == min(64, drafting.kv_tokens // (4_096 + 8))
    # Tokens of a row, and a ring of eight columns instead of four.
    assert drafting.request_table_bytes - plain.request_table_bytes == 65 * (4 + 4) * 4


@pytest.mark.parametrize(("steps", "sets"), [(0, 1), (1, 2 + 2 / 14), (2, 3 + 4 / 14), (3, 3 + 4 / 14)])
def test_plan_counts_the_graphs_of_all_numbers_of_steps(steps: int, sets: float) -> None:
    plan = plan_deployment(deployment(H200, weight_dtype="fp8", max_running_requests=40, mtp_steps=steps))
    one_set = 2 * 40 << 20
    assert plan.reserve_bytes == (512 + 8192 * 3 // 2 + 128 << 20) + int(one_set * sets)


@pytest.mark.parametrize("steps", range(4))
def test_plan_counts_the_ring_of_the_kernels(steps: int) -> None:
    plan = plan_deployment(deployment(H200, weight_dtype="fp8", max_running_requests=64, mtp_steps=steps))
    ring = ring_columns(order=LITE.emb_neighbor_num, width=steps + 1)
    reserved = 4 + (steps + 1 if steps else 0)
    assert plan.request_table_bytes == 65 * (LITE.max_position_embeddings + reserved + ring) * 4


def test_plan_with_drafts_has_sglangs_limit_on_requests() -> None:
    assert plan_deployment(deployment(H200, weight_dtype="fp8", mtp_steps=1)).request_slots == 48


def test_plan_with_more_ranks_has_more_tokens() -> None:
    two, four = (plan_deployment(deployment(H200, gpus=tp, tp=tp)) for tp in (2, 4))
    freed = sum(two.weights_bytes.values()) - sum(four.weights_bytes.values())
    lost = four.reserve_bytes - two.reserve_bytes
    assert four.kv_tokens - two.kv_tokens == pytest.approx((freed - lost) / 32_256, abs=1)


def test_plan_with_fp8_cache_has_twice_the_tokens() -> None:
    given = deployment(H200, weight_dtype="fp8")
    tokens = plan_deployment(given).kv_tokens
    assert plan_deployment(replace(given, kv_dtype="fp8")).kv_tokens in (2 * tokens, 2 * tokens + 1)


def test_plan_requires_room_for_one_request_of_whole_context() -> None:
    given = deployment(H200, weight_dtype="fp8")
    tokens = plan_deployment(given).kv_tokens
    assert plan_deployment(replace(given, context_tokens=tokens)).fits
    too_long = plan_deployment(replace(given, context_tokens=tokens + 1))
    assert not too_long.fits
    assert f"{tokens:,} tokens, less than one request of {tokens + 1:,}" in too_long.shortcomings[0]


def test_plan_omits_lengths_above_context() -> None:
    plan = plan_deployment(deployment(H200, weight_dtype="fp8", context_tokens=32_768))
    assert list(plan.concurrent_requests) == [4_096, 32_768]


def test_plan_respects_limit_on_requests() -> None:
    plan = plan_deployment(deployment(H200, weight_dtype="fp8", max_running_requests=10))
    assert plan.concurrent_requests[4_096] == 10
    assert plan.request_slots == 10
    assert plan.concurrent_requests[262_144] == plan.kv_tokens // 262_144 < 10


def test_plan_refuses_request_table_larger_than_reserve() -> None:
    given = deployment(H200, weight_dtype="fp8", reserve_bytes=2 * GIB, max_running_requests=2048)
    plan = plan_deployment(given)
    # Slightly more than the context per row, four bytes each, for 2048 requests and one row of padding.
    assert plan.request_table_bytes == pytest.approx(2049 * 327_680 * 4, rel=1e-4)
    assert "table of 327,680 tokens for each request" in plan.shortcomings[0]
    assert plan_deployment(replace(given, max_running_requests=512)).fits


def test_plan_counts_host_memory_of_each_engine() -> None:
    given = deployment(H100, weight_dtype="fp8", tables="host", gpus=4, tp=2, host_memory_bytes=100 * GIB)
    plan = plan_deployment(given)
    assert given.engines == 2
    assert plan.host_bytes == 2 * 2 * 31_406_985_216
    assert plan.shortcomings == ["the n-gram tables need 17.0 GiB more host memory"]
    assert plan_deployment(replace(given, host_memory_bytes=128 * GIB)).fits
    with pytest.raises(PlanError, match="gpus must be a multiple of tp, got 3 gpus and tp 2"):
        plan_deployment(replace(given, gpus=3))


def test_mem_fraction_static_leaves_reserve() -> None:
    plan = plan_deployment(deployment(H200, weight_dtype="fp8"))
    free = plan.deployment.gpu_memory_bytes - plan.deployment.runtime_bytes
    left = free * (1 - plan.mem_fraction_static)
    assert plan.reserve_bytes <= left <= plan.reserve_bytes + free / 1000


def test_alternatives_fit_and_go_no_further_than_necessary() -> None:
    plan = plan_deployment(deployment(H100))
    found = alternatives(plan)
    assert {"gpus": 4, "tp": 4} in found
    assert {"weight_dtype": "fp8", "tables": "host"} in found
    assert {"gpus": 8, "tp": 8} not in found
    assert not any({"gpus", "tables", "weight_dtype"} <= change.keys() for change in found)
    # More GPUs come last, and then more changes.
    order = [("gpus" in change, len(change)) for change in found]
    assert order == sorted(order)
    assert order[0][0] is False
    for change in found:
        assert plan_deployment(replace(plan.deployment, **change)).fits


def test_alternatives_use_the_gpus_at_hand_before_more() -> None:
    found = alternatives(plan_deployment(deployment(H100, gpus=4, tp=2)))
    assert found[0] == {"tp": 4}
    assert not any("gpus" in change for change in found)
    # Not all of six GPUs can be divided among engines of four.
    assert {"gpus": 4, "tp": 4} in alternatives(plan_deployment(deployment(H100, gpus=6, tp=2)))


def test_alternatives_bring_tables_back_to_the_gpu_when_host_memory_is_short() -> None:
    given = deployment(H200, tables="host", host_memory_bytes=32 * GIB, weight_dtype="fp8")
    assert alternatives(plan_deployment(given))[0] == {"tables": "device"}


def test_alternatives_may_be_empty() -> None:
    assert alternatives(plan_deployment(deployment(4.0))) == []
