"""Options of an engine in a list, after semicolons."""

import pytest

from serval.engine.notation import ListedOptions, split_options
from serval.engine.weights import Weight
from serval.errors import SettingsError


def test_split_options_reads_weight_and_version() -> None:
    assert split_options("http://a:1") == ("http://a:1", ListedOptions())
    assert split_options("http://a:1;version=2026-12;weight=5%") == (
        "http://a:1",
        ListedOptions(Weight(0.05, is_share=True), "2026-12"),
    )


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("http://a:1;weight=2x", r"engine 'http://a:1': the weight '2x' .* such as 5%"),
        ("http://a:1;weight", r"the weight ''"),
        ("http://a:1;version=", r"1 to 64 letters"),
        ('http://a:1;version="new"', r"1 to 64 letters"),
        ("http://a:1;version=" + "x" * 65, r"1 to 64 letters"),
        ("http://a:1;wieght=1", r"'wieght=1', which is not known; there are weight=5% and version=2026-12"),
        ("http://a:1;", r"which is not known"),
        ("http://a:1;weight=1;weight=2", r"'weight' twice; once is enough"),
    ],
)
def test_split_options_refuses_with_what_to_write(item: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        split_options(item)
