"""What the kernels compile to for three GPU generations, compared with the table in BENCHMARKS.md."""

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


def test_no_kernel_spills_and_registers_leave_room(usages: list[Usage]) -> None:
    for usage in usages:
        assert usage.spilled_bytes == 0, usage.name
        # Half of a multiprocessor's 2,048 threads can be resident.
        assert usage.registers <= 64, usage.name


def test_the_recorded_table_is_that_of_this_code(usages: list[Usage]) -> None:
    assert usage_table(usages) in BENCHMARKS.read_text(), "run `python -m serval_kernels.bench.aot`"


def test_rows_move_sixteen_bytes_at_a_time(usages: list[Usage]) -> None:
    for usage in usages:
        if usage.name.startswith(("ngram_gather", "combine_identity")):
            assert "st.global.v4.b32" in usage.ptx, usage.name
        if usage.name.startswith("ngram_gather bf16"):
            assert "ld.global.v4.b32" in usage.ptx


def test_bfloat16_is_rounded_to_nearest(usages: list[Usage]) -> None:
    """The interpreter cuts bfloat16 off, so its tests cannot show this."""
    for usage in usages:
        conversions = re.findall(r"cvt\.\S*bf16\S*\.f32", usage.ptx)
        assert all(conversion.startswith("cvt.rn.bf16") for conversion in conversions), usage.name
        assert conversions or "step" in usage.name or "bf16" in usage.name or usage.name == "route_topk"


def test_the_history_is_read_by_all_before_it_is_written(usages: list[Usage]) -> None:
    for usage in usages:
        if "step" in usage.name:
            # Row ids are 64 bits wide, so the one store of 32 is that of the history.
            before, store, _ = usage.ptx.partition("st.global.b32")
            assert store
            assert before.rindex("bar.sync") > before.rindex("ld.global"), usage.name
