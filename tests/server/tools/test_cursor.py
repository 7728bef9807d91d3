"""Finding markers in pieces of text."""

import pytest

from serval.tools.cursor import MarkerSet


@pytest.mark.parametrize("markers", [("\n",), ("<a>", "[b]"), ("<a<b>",)])
def test_marker_set_refuses_markers_it_could_miss(markers: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="begin with one character"):
        MarkerSet(*markers)


def test_marker_set_finds_unfinished_marker_at_end_only() -> None:
    markers = MarkerSet("[call]", "\n")
    assert markers.unfinished_from("a [ca", 0) == 2
    assert markers.unfinished_from("a [ca b", 0) == 7
    assert markers.match("a [call]", 2) == "[call]"
