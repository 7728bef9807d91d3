"""The text of an answer compared with its token ids, for texts and ids that are cut anywhere."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serval.chat.answer_text import MarkerPlaces, WholeCharacters
from serval.chat.tokenizer import load_tokenizer
from serval_testkit.gateway import DEMO_CHECKPOINT

TOKENIZER, FULL = load_tokenizer(DEMO_CHECKPOINT)
TOKENS = TOKENIZER.token_bytes
CALL, CALL_END, PAD, USER = 9, 10, 3, 5
MARKERS = ("<longcat_tool_call>", "</longcat_tool_call>")
BYTES = list(TOKENIZER.encode_text("鑫"))

quoted = st.sampled_from(MARKERS).map(lambda text: list(TOKENIZER.encode_text(text)))
pieces_of_ids = st.one_of(
    st.sampled_from([[CALL], [CALL_END], [PAD], [USER]]),
    quoted,
    st.integers(21, TOKENIZER.vocabulary_size - 1).map(lambda token_id: [token_id]),
    st.sampled_from([BYTES, BYTES[:1], BYTES[:2]]),
    st.text(max_size=4).map(lambda text: list(TOKENIZER.encode_text(text))),
)
answers = st.lists(pieces_of_ids, max_size=12).map(lambda parts: [each for part in parts for each in part])


def text_of(ids: Sequence[int]) -> str:
    return str(FULL.decode(list(ids), skip_special_tokens=False))


def cut(length: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
    edges = [0, *sorted(each % (length + 1) for each in cuts), length]
    return list(itertools.pairwise(edges))


def marked(text: str, places: Sequence[int], sign: str = "\0") -> str:
    """Put a sign before every place."""
    for place in reversed(places):
        text = f"{text[:place]}{sign}{text[place:]}"
    return text


def expected(ids: Sequence[int]) -> str:
    """Return the text with a sign before each marker, and without other special tokens."""
    written = []
    for name, stretch in itertools.groupby(ids, TOKENS.control_text):
        text = text_of(list(stretch))
        if name is None:
            written.append(text)
        elif name in MARKERS:
            written.append(text.replace(name, f"\0{name}"))
    return "".join(written)


@settings(max_examples=400, deadline=None)
@given(
    ids=answers,
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
    lead=st.integers(0, 3),
)
def test_marker_places_are_those_of_control_tokens(ids: list[int], cuts: list[int], lead: int) -> None:
    """Tried: every cut of text, several tokens at once, ids ahead of the text, parts of characters."""
    text = text_of(ids)
    # A token arrives with its first character, or before it.
    begins = [len(text_of(ids[:place]).removesuffix("\ufffd")) for place in range(len(ids))]
    finder = MarkerPlaces(TOKENS, MARKERS)
    found, sent = "", 0
    for begin, end in cut(len(text), cuts):
        upto = min(len(ids), max(sent, lead + sum(each < end for each in begins)))
        piece, places = finder.add(text[begin:end], ids[sent:upto])
        sent = upto
        assert places is not None
        found += marked(piece, places)
    assert found == expected(ids)


@pytest.mark.parametrize("marker", [CALL, CALL_END])
def test_marker_places_tell_a_marker_from_its_text(marker: int) -> None:
    name = text_of([marker])
    ids = [*TOKENIZER.encode_text(f"say {name}"), marker, *TOKENIZER.encode_text(name)]
    assert MarkerPlaces(TOKENS, MARKERS).add(f"say {name * 3}", ids) == (f"say {name * 3}", [4 + len(name)])


def test_marker_places_are_right_where_a_stop_string_cuts_a_marker() -> None:
    finder = MarkerPlaces(TOKENS, MARKERS)
    assert finder.add("a<long", [*TOKENIZER.encode_text("a"), CALL]) == ("a<long", [1])


def test_marker_places_leave_out_special_tokens_in_every_piece() -> None:
    finder = MarkerPlaces(TOKENS, MARKERS)
    name = text_of([PAD])
    assert finder.add(f"a{name[:5]}", [*TOKENIZER.encode_text("a"), PAD]) == ("a", [])
    assert finder.add(name[5:9], []) == ("", [])
    assert finder.add(f"{name[9:]}b", list(TOKENIZER.encode_text("b"))) == ("b", [])


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("x<longcat_tool_call>", None),  # no ids
        ("xy<longcat_tool_call>", [*TOKENIZER.encode_text("x"), CALL]),  # other text than the ids'
        ("x<longcat_tool_call>", [TOKENIZER.vocabulary_size, CALL]),  # an id without bytes
    ],
)
def test_marker_places_are_unknown_if_ids_do_not_fit_the_text(text: str, ids: list[int] | None) -> None:
    finder = MarkerPlaces(TOKENS, MARKERS)
    assert finder.add(text, ids) == (text, None)
    assert finder.add("<longcat_tool_call>", [CALL]) == ("<longcat_tool_call>", None)


WRITTEN = list(TOKENIZER.encode_text("\ufffd"))
HELLO = list(TOKENIZER.encode_text("你好"))


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (HELLO, "你好"),
        ([*HELLO, *BYTES[:1]], "你好"),
        ([*HELLO, *BYTES[:2]], "你好"),
        ([*HELLO, *BYTES], "你好鑫"),
        (BYTES[:1], ""),
        (WRITTEN, "\ufffd"),  # the model wrote this character
        ([*HELLO, *WRITTEN], "你好\ufffd"),
        ([*WRITTEN, *BYTES[:2]], "\ufffd"),
        ([*WRITTEN[:2]], ""),
        ([*BYTES[1:]], "\ufffd\ufffd"),  # not the beginning of a character
        ([*BYTES[:2], CALL], "\ufffd<longcat_tool_call>"),
        (list(TOKENIZER.encode_text("a 😀"))[:-1], "a "),
    ],
    ids=str,
)
def test_whole_characters_leave_out_an_incomplete_one_at_the_end(ids: list[int], text: str) -> None:
    """Tried: all at once, token by token with the text late as the engine sends it, one byte to three."""
    assert WholeCharacters(TOKENS).add(text_of(ids), ids, is_last=True) == text
    late = WholeCharacters(TOKENS)
    complete = text_of(ids).rstrip("\ufffd")
    assert late.add(complete, ids[:1], is_last=False) == complete
    for token_id in ids[1:]:
        assert late.add("", [token_id], is_last=False) == ""
    assert complete + late.add(text_of(ids)[len(complete) :], [], is_last=True) == text


def test_whole_characters_keep_text_without_ids() -> None:
    assert WholeCharacters(TOKENS).add("a\ufffd", None, is_last=True) == "a\ufffd"
