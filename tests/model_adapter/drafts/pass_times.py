"""Measure where the CPU time of a pass goes while drafts are never right (`serval checkpoint tiny --mtp`).

    PYTHONPATH=tests/support python tests/model_adapter/drafts/pass_times.py DIR

Prints CPU time of the scheduler's thread, in ms for each pass, of an engine without drafts, one that chooses
its steps, and one whose layer runs in passes without drafts too. One request is decoded; the first passes, in
which all numbers of steps are tried, are left out. Calls contain those printed below them in part.
"""

import argparse
import json
import tempfile
from pathlib import Path

from serval_sglang.launch import SKIP_LAYER
from serval_sglang.verify.engine import running_engine
from serval_testkit.engine_plugins import with_plugins, write_plugin

SETTLE, PASSES = 200, 500

TIMED = f"""
import json
import os
import time
from collections import Counter
from pathlib import Path

SPENT = Counter()
PASSES = [0]


def timed(owner, name):
    original = getattr(owner, name)

    def call(*arguments, **named):
        begin = time.thread_time()
        try:
            return original(*arguments, **named)
        finally:
            SPENT[name] += time.thread_time() - begin

    setattr(owner, name, call)


def counted(original):
    def process(*arguments, **named):
        PASSES[0] += 1
        if PASSES[0] == {SETTLE}:
            SPENT.clear()
        if PASSES[0] == {SETTLE + PASSES}:
            Path(os.environ["SERVAL_TEST_TIMES"]).write_text(json.dumps(SPENT))
        return original(*arguments, **named)

    return process


def register():
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.speculative.eagle_worker_v2 import EagleDraftWorker, EAGLEWorkerV2

    for name in ("get_next_batch_to_run", "run_batch", "process_batch_result"):
        timed(Scheduler, name)
    timed(EAGLEWorkerV2, "verify")
    timed(EagleDraftWorker, "draft")
    timed(EagleDraftWorker, "_draft_extend_for_decode")
    Scheduler.process_batch_result = counted(Scheduler.process_batch_result)
"""


def pass_times(model: Path, folder: Path, *, steps: int, environment: dict[str, str]) -> dict[str, float]:
    """Return ms of CPU time in each pass by the name of the function."""
    times = folder / "times"
    named = {**with_plugins(folder), "SERVAL_TEST_TIMES": str(times), **environment}
    with running_engine(
        model, dtype="float32", mtp_steps=steps, mtp_fixed=False, environment=named
    ) as engine:
        sampling = {"temperature": 0, "max_new_tokens": SETTLE + PASSES + 20, "ignore_eos": True}
        engine.post("/generate", {"input_ids": [5, 6, 7], "sampling_params": sampling})
    return {name: 1000 * spent / PASSES for name, spent in json.loads(times.read_text()).items()}


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", type=Path, metavar="DIR", help="checkpoint with an MTP layer")
    model = made.parse_args().model
    variants: dict[str, tuple[int, dict[str, str]]] = {
        "no drafts": (0, {}),
        "chosen steps": (3, {}),
        "layer in every pass": (3, {SKIP_LAYER: "0"}),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_plugin(folder, "timed_passes", TIMED)
        for variant, (steps, environment) in variants.items():
            found = pass_times(model, folder, steps=steps, environment=environment)
            print(variant, " ".join(f"{call} {spent:.2f}" for call, spent in found.items()), flush=True)


if __name__ == "__main__":
    main()
