"""How a pair of engines is written."""

import pytest

from serval.engine.pair_url import PairUrl, is_pair, pair_of
from serval.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("pd+http://p:1|http://d:2?bootstrap_port=3", PairUrl("http://p:1", "http://d:2", 3)),
        ("pd+http://p:1/|https://d/", PairUrl("http://p:1", "https://d", 8998)),
    ],
)
def test_pair_of_reads_both_urls_and_the_port(text: str, pair: PairUrl) -> None:
    assert is_pair(text)
    assert pair_of(text) == pair
    assert pair_of(pair.text) == pair


def test_pair_has_a_name_without_schemes_and_a_host_to_meet_at() -> None:
    pair = pair_of("pd+http://p:1/sub|http://[::1]:2")
    assert pair.name == "p:1/sub|[::1]:2"
    assert pair.bootstrap_host == "p"
    assert pair_of("pd+http://[::1]:2|http://p:1").bootstrap_host == "[::1]"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pd+http://p:1", "must be of the form pd\\+http://PREFILL:PORT\\|http://DECODE:PORT"),
        ("pd+http://p:1|http://d:2|http://e:3", "must be of the form"),
        ("http://p:1|http://d:2", "must be of the form"),
        ("pd+p:1|http://d:2", "must be of the form http://HOST:PORT"),
        ("pd+http://p:1|dns+http://d:2", "names both by URL, not by dns"),
        ("pd+http://p:1|http://p:1/", "names one engine twice"),
        ("pd+http://p:1|http://d:2?bootstrap_port=0", "from 1 to 65535, not '0'"),
        ("pd+http://p:1|http://d:2?bootstrap_port=", "from 1 to 65535, not ''"),
        ("pd+http://p:1|http://d:2?bootstrap_port=x", "from 1 to 65535, not 'x'"),
        ("pd+http://p:1|http://d:2?port=3", "takes \\?bootstrap_port=PORT at its end, and nothing else"),
        ("pd+http://p:1?bootstrap_port=3|http://d:2", "at its end, and nothing else"),
        ("pd+http://u:" + "x@p:1|http://d:2", "SERVAL_ENGINE_API_KEY"),
    ],
)
def test_pair_of_says_what_is_wrong(text: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        pair_of(text)
