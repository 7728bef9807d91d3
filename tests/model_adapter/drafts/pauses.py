"""Measure how many drafts are right when they begin again after passes without drafts.

    PYTHONPATH=tests/support python tests/model_adapter/drafts/pauses.py DIR

Between runs of 16 passes with three drafts lie pauses, passes without any. In a pause the layer runs in each
pass, in the last `LEAD` ones as shipped, or in none. The text is the same in each case, and the pauses lie
at the same places of it, at first; `PHASES` times at others. The demo model is asked its documented questions
and calls, another model random prompts.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from serval_sglang.checkpoint.files import load_config
from serval_sglang.consistency.questions import Prompt, prompts
from serval_sglang.draft_bench.speed import documented
from serval_sglang.drafts.controller import LEAD
from serval_sglang.options import DEMO_MODEL
from serval_sglang.verify.engine import Engine, running_engine
from serval_testkit.engine_plugins import with_plugins, write_plugin

STEPS, DRAFTING_PASSES, PAUSES, PHASES = 3, 16, (16, 64), 4
REQUESTS, NEW_TOKENS = 8, 300

# The file has the passes of a pause, in how many of the last ones the layer runs, and where the first begins.
SCHEDULED = f"""
import os
from pathlib import Path

from serval_sglang.drafts.adaptive_steps import MeasuredSteps


def register():
    passes, known = [0], [""]

    def before_drafts():
        schedule = Path(os.environ["SERVAL_TEST_PAUSE"]).read_text()
        pause, lead, first = map(int, schedule.split())
        if schedule != known[0]:
            known[0], passes[0] = schedule, first
        return pause - passes[0] % (pause + {DRAFTING_PASSES}), lead

    def steps(self, batch_size):
        before_drafts()
        passes[0] += 1
        return 0 if before_drafts()[0] > 0 else {STEPS}

    def layer_runs(self, batch_size):
        left, lead = before_drafts()
        return left <= lead

    MeasuredSteps.get_steps_for_batch, MeasuredSteps.layer_runs_without_drafts = steps, layer_runs
"""


def drafts(engine: Engine, asked: Sequence[Prompt]) -> tuple[float, float]:
    """Have all prompts continued at once; return the drafts and those that were right."""
    names = ("serval_engine_drafted_tokens_total", "serval_engine_accepted_tokens_total")
    before = [engine.metric_total(name) for name in names]
    sampling = {"temperature": 0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
    engine.post("/generate", {"input_ids": [list(prompt) for prompt in asked], "sampling_params": sampling})
    drafted, right = (
        engine.metric_total(name) - earlier for name, earlier in zip(names, before, strict=True)
    )
    return drafted, right


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", type=Path, metavar="DIR", help="checkpoint with an MTP layer")
    model = made.parse_args().model
    is_demo = model.resolve() == DEMO_MODEL.resolve()
    asked = documented(model) if is_demo else prompts(REQUESTS, vocab_size=load_config(model).vocab_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_plugin(folder, "scheduled_pauses", SCHEDULED)
        schedule = folder / "pause"
        schedule.write_text("0 0 0")
        environment = {**with_plugins(folder), "SERVAL_TEST_PAUSE": str(schedule)}
        with running_engine(
            model, dtype="float32", mtp_steps=STEPS, mtp_fixed=False, environment=environment
        ) as engine:
            for pause in PAUSES:
                for layer, lead in (("each", pause), (f"the last {LEAD}", LEAD), ("no", 0)):
                    drafted = right = 0.0
                    for phase in range(PHASES):
                        schedule.write_text(f"{pause} {lead} {phase * (pause + DRAFTING_PASSES) // PHASES}")
                        more = drafts(engine, asked[:REQUESTS])
                        drafted, right = drafted + more[0], right + more[1]
                    passes = drafted / STEPS
                    print(
                        f"pause of {pause} passes, layer in {layer}: {right / passes:.3f} right drafts a pass"
                        f" ({passes:.0f} passes of requests)",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
