"""Tests of the repository's rules, run by promtool: many in one run, since most of its time is its start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from serval_testkit.operator_tools import OperatorTools


@dataclass(frozen=True)
class PromtoolTest:
    """Series in promtool's notation, and the samples of `expression` at time `at`, by their labels."""

    name: str
    series: Mapping[str, str]
    expression: str
    at: str
    samples: Mapping[str, int]


def run_promtool_tests(
    tools: OperatorTools,
    folder: Path,
    tests: Sequence[PromtoolTest],
    *,
    rule_files: Sequence[Path],
    step: str,
) -> None:
    """Evaluate the rules each `step`, which is also the time between values. Fails with promtool's output."""
    path = folder / "tests.yml"
    document = {
        "rule_files": [str(rule_file) for rule_file in rule_files],
        "evaluation_interval": step,
        "tests": [
            {
                "name": test.name,
                "interval": step,
                "input_series": [{"series": name, "values": values} for name, values in test.series.items()],
                "promql_expr_test": [
                    {
                        "expr": test.expression,
                        "eval_time": test.at,
                        "exp_samples": [
                            {"labels": labels, "value": value} for labels, value in test.samples.items()
                        ],
                    }
                ],
            }
            for test in tests
        ],
    }
    path.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper))
    tools.run("promtool", "test", "rules", path)
