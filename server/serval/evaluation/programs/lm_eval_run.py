"""Runs tasks of lm-eval (the Language Model Evaluation Harness) in its own environment; needs no torch.

python lm_eval_run.py JOB, where JOB is a JSON file (`serval.evaluation.job.Job`).
"""

import json
import sys
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import lm_eval.tasks


def main() -> None:
    """Run the job's tasks, and write the harness's own log and the outcomes."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = Path(job["out"])
    if job["data"] is not None:
        datasets.load_dataset = _from_folder(Path(job["data"]), datasets.load_dataset)
    results = lm_eval.simple_evaluate(
        model="local-chat-completions",
        model_args={
            "base_url": f"{job['base_url']}/chat/completions",
            "model": job["model"],
            "num_concurrent": job["concurrency"],
            # The recorder repeats requests, and decides how long it waits.
            "max_retries": 1,
            "timeout": 86_400,
        },
        tasks=job["tasks"],
        # An index of all tasks would take longer than a small suite.
        task_manager=lm_eval.tasks.TaskManager(
            include_defaults=False,
            include_path=str(Path(lm_eval.tasks.__file__).parent / job["tasks_folder"]),
        ),
        limit=job["limit"],
        apply_chat_template=True,
        log_samples=True,
        bootstrap_iters=0,
    )
    metric, _, wanted_filter = job["metric"].partition(",")
    with (
        (out / "samples.jsonl").open("w", encoding="utf-8") as log,
        (out / "outcomes.jsonl").open("w") as file,
    ):
        for task, samples in results["samples"].items():
            for sample in samples:
                log.write(json.dumps({"task": task, **sample}, default=str) + "\n")
                if sample["filter"] == wanted_filter:
                    outcome = {"task": task, "id": str(sample["doc_id"]), "score": float(sample[metric])}
                    file.write(json.dumps(outcome) + "\n")


def _from_folder(data: Path, load: Any) -> Any:
    """Return `load_dataset`, which reads a data set from its folder below `data` if it is there."""

    def load_local(path: str, *args: Any, **options: Any) -> Any:
        folder = data / path
        return load(str(folder) if folder.is_dir() else path, *args, **options)

    return load_local


if __name__ == "__main__":
    main()
