"""Siblings of the model: found by name, and by the chat template."""

import pytest

from serval.grammar.dialects.longcat import LONGCAT
from serval.grammar.dialects.longcat_json import LONGCAT_JSON
from serval.siblings import SIBLINGS, dialect_of, doubts, sibling_of
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.repository import ROOT

LITE = (DEMO_CHECKPOINT / "chat_template.jinja").read_text()
JSON_CALLS = "{{ '<longcat_tool_call>' ~ call | tojson ~ '</longcat_tool_call>' }}"


@pytest.mark.parametrize(
    ("template", "dialect"),
    [(LITE, LONGCAT), (JSON_CALLS, LONGCAT_JSON), ("{{ messages[0].content }}", LONGCAT)],
    ids=["keys and values", "JSON", "no calls"],
)
def test_dialect_of_a_template_is_that_of_its_calls(template: str, dialect: object) -> None:
    assert dialect_of(template) is dialect


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("LongCat-Flash-Lite", "LongCat-Flash-Lite"),
        ("/models/longcat-flash-lite-fp8/", "LongCat-Flash-Lite"),
        ("meituan-longcat/LongCat-Flash-Lite-Sparse", "LongCat-Flash-Lite-Sparse"),
        ("meituan-longcat/LongCat-Flash-Chat", "LongCat-Flash-Chat"),
        ("LongCat-Flash-Thinking", "LongCat-Flash-Thinking"),
        ("LongCat-Flash-Thinking-2601-FP8", "LongCat-Flash-Thinking-2601"),
        ("checkpoint", None),
    ],
)
def test_sibling_of_a_name_is_the_one_whose_name_it_begins_with(model: str, name: str | None) -> None:
    found = sibling_of(model)
    assert (None if found is None else found.name) == name


def test_doubts_name_a_template_of_another_model() -> None:
    switch = {"enable_thinking"}
    assert doubts("LongCat-Flash-Lite", LITE, switch) == []
    assert doubts("anything", JSON_CALLS, set()) == []
    assert doubts("LongCat-Flash-Chat", JSON_CALLS, set()) == []
    assert doubts("LongCat-Flash-Thinking-2601", JSON_CALLS, set()) == [
        "the chat template is not LongCat-Flash-Thinking-2601's: it writes tool calls in another format",
        "the chat template is not LongCat-Flash-Thinking-2601's: it does not read enable_thinking, by which"
        " thinking is switched",
    ]
    (doubt,) = doubts("LongCat-Flash-Chat", LITE, switch)
    assert "in another format" in doubt


def test_page_has_a_row_of_every_sibling() -> None:
    page = (ROOT / "model_adapter/SIBLINGS.md").read_text()
    forms = {id(LONGCAT): "keys and values", id(LONGCAT_JSON): "JSON"}
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| LongCat-")}
    assert rows.keys() >= {sibling.name for sibling in SIBLINGS}
    for sibling in SIBLINGS:
        row = rows[sibling.name]
        assert f"| {forms[id(sibling.dialect)]} |" in row
        assert (f"`{sibling.switch}`" if sibling.switch else "not known") in row
