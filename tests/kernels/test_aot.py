"""The kernels compiled for three GPU generations, compared with the table in BENCHMARKS.md."""

import re
from pathlib import Path

import pytest

from serval_kernels.launch import INTERPRETED

if not INTERPRETED:
    from serval_kernels.bench.aot import (
        COMPUTE_CAPABILITIES,
        Usage,
        compile_launch,
        recorded_launches,
        usage_table,
    )
    from serval_kernels.bench.sizes import LITE

BENCHMARKS = Path(__file__).parents[2] / "kernels" / "BENCHMARKS.md"
pytestmark = pytest.mark.skipif(
    INTERPRETED, reason="interpreted kernels are not compiled: unset TRITON_INTERPRET"
)


@pytest.fixture(scope="module")
def usages() -> list[Usage]:
    return [
        compile_launch(recorded, capability)
        for recorded in recorded_launches(LITE)
        for capability in COMPUTE_CAPABILITIES
    ]


def test_kernels_do_not_spill_and_leave_registers(usages: list[Usage]) -> None:
    for usage in usages:
        assert usage.spilled_bytes == 0, usage.name
        # At least half of a multiprocessor's 2,048 threads can be resident.
        assert usage.registers <= 64, usage.name


def test_usage_table_matches_benchmarks_md(usages: list[Usage]) -> None:
    assert usage_table(usages) in BENCHMARKS.read_text(), "run `python -m serval_kernels.bench.aot`"


def test_ngram_gather_moves_sixteen_bytes_at_a_time(usages: list[Usage]) -> None:
    for usage in usages:
        if usage.name.startswith(("ngram_gather", "combine_identity")):
            assert "st.global.v4.b32" in usage.ptx, usage.name
        if usage.name.startswith("ngram_gather bf16"):
            assert "ld.global.v4.b32" in usage.ptx


def test_ngram_gather_rounds_bfloat16_to_nearest(usages: list[Usage]) -> None:
    """The interpreter truncates to bfloat16, so its tests cannot show this."""
    for usage in usages:
        conversions = re.findall(r"cvt\.\S*bf16\S*\.f32", usage.ptx)
        assert all(conversion.startswith("cvt.rn.bf16") for conversion in conversions), usage.name
        assert conversions or "step" in usage.name or "bf16" in usage.name or usage.name == "route_topk"


def test_extend_step_reads_ring_before_writing_it(usages: list[Usage]) -> None:
    for usage in usages:
        if "extend_step" in usage.name:
            # Row ids are 64 bits wide, so the only store of 32 bits is that of the ring.
            before, store, _ = usage.ptx.partition("st.global.b32")
            assert store
            assert before.rindex("bar.sync") > before.rindex("ld.global"), usage.name


def test_decode_step_needs_no_barrier(usages: list[Usage]) -> None:
    decode = [usage for usage in usages if usage.name.startswith("decode_step")]
    assert decode
    assert not any("bar.sync" in usage.ptx for usage in decode)
