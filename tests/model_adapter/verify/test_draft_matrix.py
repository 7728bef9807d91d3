"""The comparison of all numbers of steps against stand-ins for engines, which answer alike or do not."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serval_sglang.known_configs import TINY
from serval_sglang.reference import ReferenceModel
from serval_sglang.verify import draft_matrix
from serval_sglang.verify.cases import Case, Request
from serval_sglang.verify.draft_matrix import Setup, compared, distance, line, main, remember_outputs
from serval_sglang.verify.drafts import DraftComparison
from serval_sglang.verify.engine import Generation

SETUP = Setup(tp=2, ep=2, chunk=3, retracts=False)
DRAFTS = DraftComparison(
    requests=6, other_texts=0, other_drafts=0, passes=98, right=132, reference_passes=98, reference_right=132
)


def answer(tokens: Sequence[int] = (5, 6, 7), shift: float = 0.0) -> Generation:
    top = [{token: -0.1 + shift, 99: -4.0} for token in tokens]
    return Generation((1, 2), tokens, top, [None, {2: -1.0}], 0)


def row(found: Generation, *, is_right: bool = True) -> draft_matrix.Row:
    return compared(
        SETUP, 3, [found], [answer()], from_reference=1e-5, is_right=is_right, drafts=DRAFTS, seconds=1.0
    )


@pytest.mark.parametrize(
    ("found", "is_right", "agrees", "same"),
    [
        (answer(), True, True, 1),
        (answer(shift=1e-3), True, True, 1),
        (answer(shift=3e-3), True, False, 1),
        (answer((5, 6, 8)), True, False, 0),
        (answer((5, 6)), True, False, 0),
        (answer(), False, False, 1),
    ],
    ids=["equal", "rounding", "too far", "another token", "shorter", "unlike the reference"],
)
def test_compared_wants_the_same_text_and_close_logits(
    found: Generation, *, is_right: bool, agrees: bool, same: int
) -> None:
    got = row(found, is_right=is_right)
    assert (got.agrees, got.same_texts) == (agrees, same)
    assert line(got).endswith("DIFFERENT") is not agrees


def test_distance_ends_where_texts_part() -> None:
    # The second token is another one, so what follows is about another text.
    mine = Generation((1,), (5, 6, 7), [{5: -1.0}, {6: -1.0, 8: -2.0}, {7: -9.0}], [None], 0)
    others = Generation((1,), (5, 8, 7), [{5: -1.5}, {6: -2.0, 8: -1.25}, {7: -1.0}], [None], 0)
    assert distance(mine, others) == 1.0


def test_line_names_split_chunk_and_counts() -> None:
    assert " ".join(line(row(answer())).split()) == "2x2 3 3 1/1 1.0e-05 0.0e+00 132 in 98; 132 in 98"


def test_reference_computes_a_sequence_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = ReferenceModel(TINY)
    computed: list[int] = []
    original = reference.run

    def run(ids: torch.Tensor, **named: Any) -> Any:
        computed.append(ids.shape[1])
        return original(ids, **named)

    monkeypatch.setattr(reference, "run", run)
    remember_outputs(reference)
    with torch.no_grad():
        first, second = (reference.run(torch.tensor([[5, 6]])).logits for _ in range(2))
        other = reference(torch.tensor([[5, 6, 7]]))
        reference(torch.tensor([[5, 6], [6, 5]]))
    assert torch.equal(first, second)
    assert other.shape[1] == 3
    assert computed == [2, 3, 2]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace engine, reference and cases; engines with two steps answer otherwise. Returns their flags."""
    flags: list[Any] = []

    @contextmanager
    def running(_: Path, *, mtp_steps: int, extra_flags: list[str], **named: Any) -> Iterator[Any]:
        flags.append((named["tp"], named["ep"], mtp_steps, *extra_flags, *named["environment"]))
        yield SimpleNamespace(steps=mtp_steps, metric_total=lambda _: 1.0)

    def judged(name: str, found: Sequence[Generation], *_: Any, **__: Any) -> Any:
        return SimpleNamespace(agrees=True, difference=SimpleNamespace(maximum=1e-5))

    for name, value in {
        "load_reference": lambda _: SimpleNamespace(config=TINY, run=None),
        "load_mtp_layer": lambda _: None,
        "running_engine": running,
        "verification_cases": lambda *_, **__: [Case("one", ((Request((1, 2), 3),),))],
        "run_case": lambda engine, _: [answer((5, 6, 8)) if engine.steps == 2 else answer()],
        "judge": judged,
        "merged": lambda parts: next(iter(parts)),
        "compare_drafts": lambda *_, **__: DRAFTS,
    }.items():
        monkeypatch.setattr(draft_matrix, name, value)
    return flags


def test_matrix_starts_an_engine_for_each_number_of_steps(
    started: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows"
    chosen = ["--splits", "1", "2x2", "--chunks", "64R", "--steps", "3", "1", "--json", str(file)]
    assert main([str(tmp_path), *chosen]) == 0
    flags = ("--chunked-prefill-size=64", "SGLANG_TEST_RETRACT")
    assert started == [(tp, ep, steps, *flags) for tp, ep in ((1, 1), (2, 2)) for steps in (0, 1, 3)]
    assert [json.loads(text)["steps"] for text in file.read_text().splitlines()] == [0, 1, 3] * 2
    assert capsys.readouterr().out.endswith("all agree\n")


@pytest.mark.usefixtures("started")
def test_matrix_is_red_if_one_engine_writes_another_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--splits", "1", "--chunks", "1"]) == 1
    rows = capsys.readouterr().out.splitlines()[1:-1]
    assert [("DIFFERENT" in text) for text in rows] == [False, False, True, False]


@pytest.mark.usefixtures("started")
def test_matrix_is_red_if_nothing_was_retracted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = SimpleNamespace(steps=0, metric_total=lambda _: 0.0)
    monkeypatch.setattr(draft_matrix, "running_engine", lambda *_, **__: nullcontext(engine))
    assert main([str(tmp_path), "--splits", "1", "--chunks", "64R"]) == 1
    assert "retracted no request" in capsys.readouterr().err
