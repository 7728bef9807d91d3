"""The text of a custom tool's call, from the JSON of its arguments in pieces."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serval.wire.responses.custom_input import CustomInput


def read(arguments: str, cuts: list[int]) -> tuple[list[str], str]:
    made = CustomInput()
    places = [0, *sorted(cut % (len(arguments) + 1) for cut in cuts), len(arguments)]
    pieces = [made.add(arguments[start:end]) for start, end in pairwise(places)]
    return pieces, made.text()


@given(st.text(), st.lists(st.integers(0, 1000), max_size=20), st.booleans())
def test_pieces_join_to_the_text_wherever_the_json_is_cut(
    text: str, cuts: list[int], ascii_only: bool
) -> None:
    text = text.encode("utf-8", "replace").decode()
    pieces, whole = read(json.dumps({"input": text}, ensure_ascii=ascii_only), cuts)
    assert "".join(pieces) == whole == text


@given(
    st.text(alphabet='a"\\\n😀{}:', max_size=20),
    st.lists(st.integers(0, 1000), max_size=5),
    st.integers(0, 60),
)
def test_text_of_a_cut_call_begins_the_text(text: str, cuts: list[int], length: int) -> None:
    arguments = json.dumps({"input": text})
    pieces, whole = read(arguments[: max(length, len('{"input": "'))], cuts)
    assert "".join(pieces) == whole
    assert text.startswith(whole)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"input": "a", "other": 1}', "a"),
        ('{"other": 1, "input": "a"}', "a"),
        ('{ "input" :"a"}', "a"),
        ('{"input": 5}', '{"input": 5}'),
        ('{"patch": "a"}', '{"patch": "a"}'),
        ("{}", "{}"),
        ("{", "{"),
        ("", ""),
        ("[1]", "[1]"),
        ('{"input": "a\nb"}', "a\nb"),
    ],
)
def test_other_arguments_are_the_text_as_they_are(arguments: str, text: str) -> None:
    pieces, whole = read(arguments, [3, 5, 8])
    assert whole == text
    assert "".join(pieces) in ("", text)
