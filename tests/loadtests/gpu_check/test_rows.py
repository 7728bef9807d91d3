"""Rows of the benches as a reader sees them."""

import json
from pathlib import Path

import pytest

from serval_load.gpu_check.record import Result
from serval_load.gpu_check.rows import Row, figures, is_red, label, read_rows
from serval_load.gpu_check.step import Step
from serval_load.gpu_check.terminal import report, row_lines

DECODE = {"what": "decode", "variant": "serval", "check": "ok", "batch": 64, "us": 2000.0}
KERNEL = {
    "what": "kernel", "operation": "gather", "tokens": 64, "table": "host", "path": "serval", "check": "ok",
    "us": 12.34, "us_p20": 12.0, "us_p80": 1300.0, "floor_us": 8.0, "builtin_us": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (KERNEL, ("gather T=64 host serval", "12.3 us (12.0-1,300.0), 1.5 x floor")),
        (DECODE, ("serval: decode step of 64", "2.000 ms, 32,000 tokens/s")),
        (
            {
                "what": "prefill",
                "variant": "a",
                "check": "ok",
                "tokens": 8192,
                "us": 1.0,
                "tokens_per_s": 51234.5,
            },
            ("a: prefill", "51,234 tokens/s, prompts of 8,192"),
        ),
        (
            {
                "what": "drafts",
                "variant": "2 drafts",
                "check": "ok",
                "batch": 8,
                "tokens_per_s": 1234.5,
                "accepted": [0.75, 0.25],
                "tokens_per_pass": 2.0,
            },
            ("2 drafts: batch 8", "1,234 tokens/s, 2.00 tokens a pass, accepted by position 75%, 25%"),
        ),
        (
            {
                "what": "drafts",
                "variant": "no drafts",
                "check": "ok",
                "batch": 1,
                "tokens_per_s": 90.0,
                "accepted": [],
                "tokens_per_pass": 1.0,
            },
            ("no drafts: batch 1", "90 tokens/s"),
        ),
        (
            {"what": "memory", "variant": "a", "check": "ok", "weight_gb": 64.125, "graph_gb": 0.5},
            ("a: memory", "weight_gb 64.12, graph_gb 0.5"),
        ),
        (
            {"what": "start", "variant": "built-in", "check": "skipped: runs on a GPU only"},
            ("built-in: start", "skipped: runs on a GPU only"),
        ),
    ],
)
def test_row_has_a_label_and_figures_with_units(row: Row, line: tuple[str, str]) -> None:
    assert (label(row), figures(row)) == line
    assert not is_red(row)


def test_read_rows_leaves_out_conditions_lines_cut_off_and_rows_measured_again(tmp_path: Path) -> None:
    again = {**KERNEL, "us": 11.0}
    lines = [{"what": "conditions", "machine": "x"}, {**KERNEL, "check": "failed: 1 differs"}, DECODE, again]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + '\n{"what": "kernel", "oper')
    assert read_rows(file) == (again, DECODE)
    assert read_rows(tmp_path / "absent") == ()


def test_report_shows_no_figure_beside_a_red_row() -> None:
    step = Step("a: times", "stand-in")
    wrong = {**DECODE, "batch": 1, "check": "failed: answers differ"}
    found = Result(step.name, "red", "1 of 2 rows", rows=(DECODE, wrong))
    assert list(row_lines(found)) == ["red    serval: decode step of 1: failed: answers differ"]
    page = report("Stand-in GPU", [found], {step.name: step})
    assert "tokens/s" not in page
    assert "| a: times | stand-in | red | 0 | 1 of 2 rows |" in page
