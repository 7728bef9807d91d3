"""The printed result of a suite: its score beside the paper's figure, and the settings behind both."""

from pathlib import Path

from serval.evaluation.manifest import Manifest
from serval.evaluation.result import Result, Score
from serval.evaluation.suites import ALWAYS_OPEN, Suite


def report(suite: Suite, manifest: Manifest, result: Result, folder: Path) -> str:
    """Return the lines of a result."""
    limited = "" if manifest.limit is None else f", the first {manifest.limit} of each task"
    rows = [
        ("score", f"{_percent(result.score)} ({result.interval}){limited}"),
        *((f"  {task}", _percent(score)) for task, score in result.tasks.items() if len(result.tasks) > 1),
        ("paper", _paper(suite)),
        *([("elsewhere", suite.elsewhere)] if suite.elsewhere else []),
        ("model", f"{manifest.model}, checkpoint {manifest.checkpoint or 'not told by the server'}"),
        ("server", manifest.server_version or "version not told"),
        ("sampling", _sampling(manifest)),
        ("harness", f"{suite.harness} {manifest.harness_version}, {', '.join(suite.tasks)}"),
        ("our choices", "; ".join((*suite.choices, "sampling"))),
        *([("left open by the paper", ", ".join(_open(suite)))] if suite.paper is not None else []),
        ("requests", f"{result.requests}: {result.refused} refused, {result.cut} cut at the longest answer"),
        ("files", str(folder)),
    ]
    return "\n".join([f"{manifest.suite}: {suite.title}", *(f"  {name:<24} {text}" for name, text in rows)])


def _percent(score: Score) -> str:
    return (
        f"{100 * score.mean:.1f} % of {score.problems} problems, "
        f"95 % interval {100 * score.low:.1f} to {100 * score.high:.1f}"
    )


def _paper(suite: Suite) -> str:
    if suite.paper is None:
        return "no figure"
    return f"{suite.paper:.2f} % ({suite.paper_setting or 'number of trials not stated'})"


def _open(suite: Suite) -> list[str]:
    return [*ALWAYS_OPEN, *([] if suite.paper_setting else ["number of trials"])]


def _sampling(manifest: Manifest) -> str:
    longest = "to the end of the context" if manifest.max_tokens is None else f"{manifest.max_tokens} tokens"
    last = manifest.seed + manifest.trials - 1
    seeds = f"seed {last}" if manifest.trials == 1 else f"seeds {manifest.seed} to {last}"
    return (
        f"temperature {manifest.temperature:g}, top_p {manifest.top_p:g}, answers {longest}, "
        f"{manifest.trials} trial{'' if manifest.trials == 1 else 's'}, {seeds}"
    )
