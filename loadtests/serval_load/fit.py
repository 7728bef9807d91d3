"""Fit of the modelled engine's costs to a trace, and replay of a trace on the model in model time."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serval_load.stand_in.costs import Costs
from serval_load.stand_in.scheduler import Job, Scheduler
from serval_load.trace import Decode, Prefill, Trace


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope by least squares of the relative error, so that short times weigh as much."""
    weights = [1 / y**2 for _, y in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    above = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True))
    below = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    slope = max(above / below, 0.0)
    return max(mean_y - slope * mean_x, 0.0), slope


def fit(trace: Trace, **sizes: Any) -> Costs:
    """Fit the costs of steps to the trace; `sizes` are the fields of `Costs` that no trace shows."""
    decode_base, decode_request = _line([(one.batch, one.seconds) for one in trace.decodes])
    prefill_base, prefill_token = _line([(one.tokens, one.seconds) for one in trace.prefills])
    return Costs(
        decode_base_s=decode_base,
        decode_request_s=decode_request,
        prefill_base_s=prefill_base,
        prefill_token_s=prefill_token,
        **sizes,
    )


def replay(trace: Trace, costs: Costs) -> Trace:
    """Replay the trace's requests on the modelled engine, whose clock is counted and so exact."""
    result = Trace("stand-in, model time")
    for number, asked in enumerate(trace.prefills):
        scheduler = Scheduler(costs)
        scheduler.add(Job("one", prompt=range(number << 20, (number << 20) + asked.tokens), tokens=1))
        while scheduler.step() is not None:
            pass
        result.prefills.append(Prefill(asked.tokens, scheduler.clock))
    for asked_batch in trace.decodes:
        scheduler = Scheduler(costs)
        for number in range(asked_batch.batch):
            scheduler.add(Job(str(number), prompt=range(number << 20, (number << 20) + 16), tokens=48))
        scheduler.step()
        before = scheduler.clock
        steps = 0
        while scheduler.step() is not None:
            steps += 1
        result.decodes.append(Decode(asked_batch.batch, (scheduler.clock - before) / steps))
    return result


def errors(trace: Trace, model: Trace) -> list[float]:
    """Relative error of the model for each prompt and each batch."""
    return [abs(b / a - 1) for a, b in zip(_seconds(trace), _seconds(model), strict=True)]


def table(trace: Trace, model: Trace) -> str:
    """Markdown table of trace and model, with the source of the trace and the model's error."""
    rows = zip(_rows(trace), _seconds(model), strict=True)
    off = errors(trace, model)
    return "\n".join(
        [
            trace.source,
            "",
            "| | measured, ms | stand-in, ms |",
            "| --- | ---: | ---: |",
            *(f"| {what} | {real * 1e3:.1f} | {modelled * 1e3:.1f} |" for (what, real), modelled in rows),
            "",
            f"The model is off by {statistics.median(off):.1%} in the median and by {max(off):.1%} at most.",
            "",
        ]
    )


def _rows(trace: Trace) -> list[tuple[str, float]]:
    prefills = [(f"first token of a prompt of {one.tokens:,}", one.seconds) for one in trace.prefills]
    return prefills + [(f"a token in a batch of {one.batch}", one.seconds) for one in trace.decodes]


def _seconds(trace: Trace) -> list[float]:
    return [seconds for _, seconds in _rows(trace)]


def write(path: Path, trace: Trace, costs: Costs) -> None:
    """Write trace and costs to one file, so that a test can compare them."""
    path.write_text(json.dumps({"costs": asdict(costs), "trace": asdict(trace)}, indent=1) + "\n")


def read_trace(path: Path) -> Trace:
    """Read the trace from a file of `write`. Raises `OSError` or `ValueError`."""
    stored = json.loads(path.read_text())["trace"]
    return Trace(
        stored["source"],
        [Prefill(**one) for one in stored["prefills"]],
        [Decode(**one) for one in stored["decodes"]],
    )
