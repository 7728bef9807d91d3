"""The command against stand-ins for engines, whose answers follow a rule or break it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest

from serval_sglang.consistency import questions
from serval_sglang.draft_bench import __main__ as command
from serval_sglang.draft_bench.__main__ import main, missing_features
from serval_sglang.draft_bench.speed import measure_speed
from serval_sglang.known_configs import TINY
from serval_sglang.verify.engine import Engine, EngineFailed

LOG = """server_args={{'model_path': 'x', 'disable_overlap_schedule': False}}
Capture target {} CUDA graph end. elapsed=1 s"""
FEW = ["--requests", "4", "--tokens", "4", "--at-once", "2", "--batches", "1", "2", "--repeats", "1"]


@dataclass
class StandIn:
    """Answers with tokens that follow from the prompt; each pass has two right drafts of three."""

    steps: int
    wrong: bool = False
    words: str = ""
    passes: int = 0
    passes_before: int = 0  # without a right draft

    def post(self, _: str, body: Mapping[str, Any]) -> Any:
        self.passes += 1
        if not body.get("return_logprob"):
            return {}
        base, count = sum(body["input_ids"]) + self.wrong, body["sampling_params"]["max_new_tokens"]
        tokens = [(base + step) % 50 for step in range(count)]
        top = [[[-0.1, token, None], [-3.0, token + 1, None]] for token in tokens]
        meta = {
            "output_token_logprobs": [[-0.1, token, None] for token in tokens],
            "output_top_logprobs": top,
        }
        return {"meta_info": {**meta, "input_top_logprobs": [], "cached_tokens": 0}}

    def metric_total(self, name: str, position: str = "") -> float:
        right = {"": 1.0, "1": 0.75, "2": 0.25, "3": 0.0}[position]
        earlier = 0 if position else self.passes_before
        return earlier + self.passes * right if self.steps else 0.0

    def log(self) -> str:
        return self.words


def stand_in(**fields: Any) -> Engine:
    return cast("Engine", StandIn(**fields))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    return tmp_path


def serve(monkeypatch: pytest.MonkeyPatch, **engines: Any) -> list[int]:
    """Start stand-ins with these fields by steps ("s2"), and return the steps that were started."""
    started: list[int] = []

    @contextmanager
    def running(_: Path, *, mtp_steps: int, **named: Any) -> Iterator[Engine]:
        started.append(mtp_steps)
        assert named["extra_flags"][0] == "--max-running-requests=2"
        fields = engines.get(f"s{mtp_steps}", {})
        if fields is None:
            raise EngineFailed("it ended")
        yield stand_in(steps=mtp_steps, **fields)

    monkeypatch.setattr(command, "running_engine", running)
    monkeypatch.setattr(questions, "_forget", lambda _: None)
    return started


def rows_of(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_bench_compares_answers_and_then_measures_each_engine(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = serve(monkeypatch)
    file = model / "rows"
    assert (
        main(["--model", str(model), "--device", "cpu", "--steps", "3", "1", *FEW, "--json", str(file)]) == 0
    )
    assert started == [0, 1, 3]
    rows = rows_of(file)
    answers = [row for row in rows if row["what"] == "answers"]
    equal = {"equal_alone": 1.0, "equal_in_batch": 1.0}
    assert answers == [
        {"what": "answers", "variant": "no drafts", "check": "ok", "equal_in_batch": 1.0},
        {"what": "answers", "variant": "1 draft", "check": "ok", **equal},
        {"what": "answers", "variant": "3 drafts", "check": "ok", **equal},
    ]
    timed = [row for row in rows if row["what"] == "drafts"]
    assert [(row["variant"], row["batch"]) for row in timed] == [
        (variant, batch) for variant in ("no drafts", "1 draft", "3 drafts") for batch in (1, 2)
    ]
    assert [row["accepted"] for row in timed[::2]] == [[], [0.75], [0.75, 0.25, 0.0]]
    assert capsys.readouterr().out.endswith("the same answers with drafts\n")


def test_bench_shows_no_speed_of_an_engine_with_other_answers(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(monkeypatch, s2={"wrong": True})
    file = model / "rows"
    asked = ["--model", str(model), "--device", "cpu", "--steps", "2", "3", *FEW, "--json", str(file)]
    assert main(asked) == 1
    (wrong,) = (row for row in rows_of(file) if row["variant"] == "2 drafts")
    assert wrong["check"] == "failed: 2 drafts, alone, 2 drafts, 2 at once"
    assert wrong["equal_alone"] == 0.0
    assert "DIFFERENT OR FAILED: 2 drafts\n" in capsys.readouterr().out


@pytest.mark.parametrize(("failing", "started"), [(0, [0]), (1, [0, 1, 2])])
def test_bench_goes_on_after_an_engine_that_failed_if_there_are_first_answers(
    model: Path, monkeypatch: pytest.MonkeyPatch, failing: int, started: list[int]
) -> None:
    found = serve(monkeypatch, **{f"s{failing}": None})
    asked = ["--model", str(model), "--device", "cpu", "--steps", "1", "2", *FEW]
    assert main(asked) == 1
    assert found == started


def test_bench_on_a_gpu_wants_graphs_and_overlap(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(monkeypatch, s0={"words": LOG.format("decode")}, s1={"words": LOG.format("decode")})
    file = model / "rows"
    assert main(["--model", str(model), "--steps", "1", *FEW, "--json", str(file)]) == 1
    checks = {row["variant"]: row["check"] for row in rows_of(file) if row["what"] == "answers"}
    assert checks == {"no drafts": "ok", "1 draft": "failed: no CUDA graphs"}


def test_bench_refuses_float32_on_a_gpu(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model", str(model), "--dtype", "float32"])
    assert "needs --device cpu" in capsys.readouterr().err


def test_missing_features_names_what_the_log_lacks() -> None:
    assert missing_features(LOG.format("verify"), steps=2) == []
    assert missing_features("'disable_overlap_schedule': True", steps=2) == ["CUDA graphs", "overlap"]


def test_lines_of_the_log_are_those_that_sglang_writes() -> None:
    # Read the source: importing it takes seconds.
    source = sglang_source("srt/model_executor/model_runner_components/cuda_graph_setup.py")
    assert 'role = "draft" if model_runner.is_draft_worker else "target"' in source
    for name in ("verify", "decode"):
        assert f'capture_name = f"{{role}} {name}"' in source
    assert '"cuda": "CUDA graph"' in source
    assert 'f"Capture {capture_name} {graph_backend[model_runner.device]} end. "' in source
    source = sglang_source("srt/entrypoints/engine.py")
    assert 'logger.info(f"server_args={_server_args_for_logging(server_args)}")' in source
    assert "-> Dict[str, Any]:\n    return redact_watermark_secrets(server_args.resolved_dict())" in source


def sglang_source(file: str) -> str:
    spec = find_spec("sglang")
    assert spec is not None
    (folder,) = spec.submodule_search_locations or []
    return (Path(folder) / file).read_text()


def test_measure_speed_repeats_prompts_and_counts_only_its_own_passes() -> None:
    engine = StandIn(steps=2, passes_before=100)
    speed = measure_speed(cast("Engine", engine), [(5, 6), (7, 8)], batch=3, steps=2, new_tokens=8, repeats=4)
    assert engine.passes == 5
    assert speed.accepted == (0.75, 0.25)
    assert speed.tokens_per_pass == 2.0
    assert speed.tokens_per_s > 0
