"""The bench: byte counts checked by hand, agreement of paths, a run from the command line."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from serval_kernels.bench import cases, roofline
from serval_kernels.bench.roofline import Machine, TableFormat, Work
from serval_kernels.bench.sizes import LITE, Sizes

SMALL = Sizes(
    vocab=307,
    ngram_base=921,
    order=4,
    splits=4,
    hidden=96,
    routed_experts=16,
    identity_experts=8,
    top_k=5,
)
BF16_ON_DEVICE = TableFormat(2, 0, on_host=False)
INT8_ON_HOST = TableFormat(1, 4, on_host=True)


def test_sizes_of_lite_are_the_published_ones() -> None:
    assert (LITE.tables, LITE.width, LITE.experts) == (12, 256, 384)
    assert LITE.rows * LITE.width == pytest.approx(31.4e9, rel=1e-3)  # parameters in n-gram tables


def test_gather_work_counts_six_kibibytes_per_token() -> None:
    rows = roofline.gather_work(1, LITE, BF16_ON_DEVICE)
    assert rows == Work(device_bytes=6144 + 6144 + 12 * 8)  # rows in, rows out, ids in
    on_host = roofline.gather_work(1, LITE, INT8_ON_HOST)
    assert on_host == Work(device_bytes=6144 + 12 * 8, host_bytes=12 * (256 + 4))


def test_work_of_every_path_is_at_least_the_floor() -> None:
    for tokens in (1, 64, 8192):
        floor = roofline.embed_work(tokens, LITE, BF16_ON_DEVICE)
        fused = roofline.fused_embed_work(tokens, LITE, BF16_ON_DEVICE)
        builtin = roofline.builtin_embed_work(tokens, LITE, BF16_ON_DEVICE)
        assert floor.device_bytes < fused.device_bytes < builtin.device_bytes
        assert floor.flops == fused.flops == builtin.flops == 2 * tokens * 3072**2


def test_machine_floor_is_the_longest_of_three_times() -> None:
    machine = Machine("", device_bytes_per_s=100.0, host_bytes_per_s=10.0, flops_per_s=1000.0)
    assert machine.floor_s(Work(device_bytes=100, host_bytes=5, flops=500)) == 1.0
    assert machine.floor_s(Work(device_bytes=100, host_bytes=50, flops=500)) == 5.0
    assert machine.floor_s(Work(device_bytes=100, host_bytes=5, flops=9000)) == 9.0


# The bounds for bfloat16 are those of the bench itself.
@pytest.mark.parametrize(
    ("tokens", "dtype", "bounds"),
    [
        (1, torch.float32, {}),
        (5, torch.float32, {}),
        (600, torch.float32, {}),
        (5, torch.bfloat16, {"rtol": 0.03, "atol": 0.03}),
    ],
)
def test_cases_agree_across_paths(tokens: int, dtype: torch.dtype, bounds: dict[str, float]) -> None:
    """Paths of a case must compute the same, in decode (up to 512 tokens) and in prefill."""
    device = torch.device("cpu")
    weights = cases.make_weights(SMALL, "device", device, dtype=dtype)
    checked = 0
    for case in [
        *cases.table_cases(SMALL, "device", weights, tokens),
        *cases.other_cases(SMALL, tokens, device, dtype=dtype),
    ]:
        results = []
        for path in case.paths:
            torch.manual_seed(1)
            case.next_input()
            results.append(path.call())
        if case.operation == "route":
            # Upstream leaves identity weights unscaled.
            results = [results[0][2], results[1][2].sum(dim=1) * cases.SCALE]
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], **bounds)
            checked += 1
    assert checked == 3  # embed, route, combine


def test_bench_runs_from_command_line(tmp_path: Path) -> None:
    # float32, because a CPU without bfloat16 instructions takes half a minute for products at full width.
    command = [
        sys.executable, "-m", "serval_kernels.bench", "--device", "cpu", "--dtype", "float32",
        "--tokens", "1", "4", "--table-rows", "5000", "--least-seconds", "0", "--tables", "device", "int8",
        "--svg", str(tmp_path / "embedding.svg"), "--json", str(tmp_path / "rows.json"),
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "% of LongCat-Flash-Lite's" in finished.stdout  # reports that tables are shrunk
    assert "| embed | 4 | int8 | serval |" in finished.stdout
    assert "| embed | 4 | device | built-in |" in finished.stdout
    bars = [
        element
        for element in ElementTree.parse(tmp_path / "embedding.svg").iter()  # noqa: S314  # our own file
        if element.tag.endswith("rect") and len(element)
    ]
    assert len(bars) == 2 * 2 * 3  # panels, sizes, paths
