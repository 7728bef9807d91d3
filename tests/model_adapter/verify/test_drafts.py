"""Comparison of drafts by number, with an engine that answers as the reference does, and ones that do not."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from serval_sglang.known_configs import TINY
from serval_sglang.verify import drafts
from serval_sglang.verify.drafts import DraftedText

Answer = dict[str, Any]


class StandInEngine:
    """Answers `/generate` with the reference's text and numbers, after `change` was made to them."""

    def __init__(self, texts: Callable[[list[int]], DraftedText], change: Callable[[Answer], Answer]) -> None:
        self.texts, self.change = texts, change

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        assert path == "/generate"
        text = self.texts(body["input_ids"])
        return self.change(
            {
                "output_ids": list(text.tokens),
                "meta_info": {"spec_correct_drafts_histogram": list(text.passes_by_right_drafts)},
            }
        )


def without_numbers(answer: Answer) -> Answer:
    return {**answer, "meta_info": {}}


def with_a_wrong_draft(answer: Answer) -> Answer:
    none, *others = answer["meta_info"]["spec_correct_drafts_histogram"]
    return {**answer, "meta_info": {"spec_correct_drafts_histogram": [none + 1, *others]}}


def with_another_text(answer: Answer) -> Answer:
    return {**answer, "output_ids": [*answer["output_ids"][:-1], 0]}


@pytest.mark.parametrize(
    ("change", "agrees", "other_texts", "other_drafts"),
    [
        (dict, True, 0, 0),
        (without_numbers, False, 0, 6),
        (with_a_wrong_draft, False, 0, 6),
        (with_another_text, False, 6, 0),
    ],
    ids=["equal", "no drafts", "a wrong draft", "other texts"],
)
def test_compare_drafts_counts_differences(
    monkeypatch: pytest.MonkeyPatch, change: Any, *, agrees: bool, other_texts: int, other_drafts: int
) -> None:
    def text(prompt: Sequence[int]) -> DraftedText:
        return DraftedText([*prompt, 7], [len(prompt), 1, 2])

    monkeypatch.setattr(drafts, "reference_text", lambda _model, _layer, prompt, **_: text(prompt))
    engine: Any = StandInEngine(text, change)
    reference: Any = SimpleNamespace(config=TINY)
    layer: Any = None
    found = drafts.compare_drafts(engine, reference, layer, steps=2)
    assert (found.agrees, found.requests) == (agrees, 6)
    assert (found.other_texts, found.other_drafts) == (other_texts, other_drafts)
    if agrees:
        assert (found.passes, found.right) == (found.reference_passes, found.reference_right) == (89, 30)


def test_drafted_text_sums_passes_and_right_drafts() -> None:
    text = DraftedText([1, 2], [3, 1, 2])
    assert (text.passes, text.right) == (6, 5)
