"""Runs categories of bfcl-eval in its own environment, which lacks the packages of other vendors' models.

python bfcl_run.py JOB, where JOB is a JSON file (`serval.evaluation.job.Job`).

bfcl-eval knows models by a table, `bfcl_eval.constants.model_config`, which imports the packages of all
vendors. Another table with this model alone is put in its place before anything imports it.
"""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

# The model's name in the harness's files, whatever its name on the server.
_NAME = "serval"


def main() -> None:
    """Ask all problems of the job's categories, score them, and write the outcomes."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = Path(job["out"])
    _put_model_table(job["model"])

    from bfcl_eval._llm_response_generation import main as generate
    from bfcl_eval.eval_checker.eval_runner import main as evaluate
    from bfcl_eval.utils import load_dataset_entry, parse_test_category_argument

    categories = parse_test_category_argument(job["tasks"])
    chosen = {
        category: [entry["id"] for entry in load_dataset_entry(category)][: job["limit"]]
        for category in categories
    }
    (out / "test_case_ids_to_generate.json").write_text(json.dumps(chosen))
    generate(
        SimpleNamespace(
            model=[_NAME],
            test_category=categories,
            temperature=0,
            include_input_log=True,
            exclude_state_log=False,
            num_threads=job["concurrency"],
            result_dir="result",
            allow_overwrite=False,
            run_ids=True,
        )
    )
    evaluate([_NAME], categories, "result", "score", partial_eval=True)
    with (out / "outcomes.jsonl").open("w") as file:
        for category, ids in chosen.items():
            wrong = _wrong_ids(out / "score", category, asked=len(ids))
            for name in ids:
                file.write(
                    json.dumps({"task": category, "id": name, "score": float(name not in wrong)}) + "\n"
                )


def _put_model_table(model: str) -> None:
    from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler

    entry = SimpleNamespace(
        model_name=model,
        display_name=model,
        url="",
        org="",
        license="",
        model_handler=OpenAICompletionsHandler,
        input_price=None,
        output_price=None,
        is_fc_model=True,
        # Dots of function names become underscores in requests; the harness maps them back.
        underscore_to_dot=True,
    )
    table: Any = ModuleType("bfcl_eval.constants.model_config")
    table.MODEL_CONFIG_MAPPING = {_NAME: entry}
    sys.modules[table.__name__] = table


def _wrong_ids(scores: Path, category: str, *, asked: int) -> set[str]:
    """Return the ids that the harness found wrong: the lines after the first of the category's score file."""
    (path,) = scores.rglob(f"BFCL_v4_{category}_score.json")
    summary, *wrong = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    if summary["total_count"] != asked or summary["correct_count"] != asked - len(wrong):
        raise SystemExit(
            f"{path} scores {summary}, but {asked} problems were asked and {len(wrong)} are wrong"
        )
    return {entry["id"] for entry in wrong}


if __name__ == "__main__":
    main()
