"""Engines found by a list, ranges, DNS and a file that changes."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from serval.engine.discovery import DNS_EVERY_S, Discovery, expand, is_single
from serval.errors import SettingsError


class Names:
    """A name server with one name, and a clock."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] | None = addresses
        self.asked = 0
        self.now = 100.0

    async def lookup(self, host: str) -> Sequence[str]:
        assert host == "engines"
        self.asked += 1
        if self.addresses is None:
            raise OSError("no such name")
        return self.addresses

    def discovery(self) -> Discovery:
        return Discovery("dns+http://engines:30000", lookup=self.lookup, now=lambda: self.now)


async def found(discovery: Discovery) -> dict[str, str]:
    return {engine.name: engine.url for engine in await discovery.look()}


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://a:1", ["http://a:1"]),
        ("http://a:1, http://b:2\nhttp://c:3", ["http://a:1", "http://b:2", "http://c:3"]),
        ("http://e-{0..2}.x:1", ["http://e-0.x:1", "http://e-1.x:1", "http://e-2.x:1"]),
        ("http://{7..8}:{1..2}", ["http://7:1", "http://7:2", "http://8:1", "http://8:2"]),
        ("dns+http://engines:1", ["dns+http://engines:1"]),
        ("pd+http://p:1|http://d:1/", ["pd+http://p:1|http://d:1?bootstrap_port=8998"]),
        (
            "pd+http://p-{0..1}:1|http://d-{4..5}:2?bootstrap_port=3, http://c:3",
            [
                "pd+http://p-0:1|http://d-4:2?bootstrap_port=3",
                "pd+http://p-1:1|http://d-5:2?bootstrap_port=3",
                "http://c:3",
            ],
        ),
        (
            "pd+http://p-{0..1}:1|http://d:2",
            [
                "pd+http://p-0:1|http://d:2?bootstrap_port=8998",
                "pd+http://p-1:1|http://d:2?bootstrap_port=8998",
            ],
        ),
        ("http://{7..8}:1;weight=0.5", ["http://7:1;weight=0.5", "http://8:1;weight=0.5"]),
    ],
)
def test_expand_writes_lists_and_ranges_out(text: str, urls: list[str]) -> None:
    assert expand(text) == urls


@pytest.mark.parametrize(
    "text",
    [
        "ftp://a",
        "a:1",
        "http://e-{3..1}",
        "http://e-{0..}",
        "http://e-{0..99999}",
        "http://u:" + "p@a:1",
        "dns+https://e:1",
        "pd+http://p:1",
        "http://p:1|http://d:1",
        "pd+http://p-{0..1}:1|http://d-{0..2}:1",
        "pd+http://p-{0..}:1|http://d:1",
        "pd+http://p-{0..9999}:1|http://d:1",
        "http://a:1;weight=-1",
        "http://a:1;weight=50%,http://b:1;weight=50%",
    ],
)
def test_expand_refuses_mistakes(text: str) -> None:
    with pytest.raises(SettingsError):
        expand(text)


def test_single_url_is_no_fleet() -> None:
    assert is_single("http://127.0.0.1:30000")
    for text in ("http://a:1,http://b:1", "http://a:1 http://b:1", "http://e-{0..0}:1", "dns+http://e:1"):
        assert not is_single(text)


async def test_engines_are_named_by_host_and_port(caplog: pytest.LogCaptureFixture) -> None:
    discovery = Discovery("http://a:1/x/,http://b:2,http://b:2/")
    for _ in range(2):
        assert await found(discovery) == {"a:1/x": "http://a:1/x", "b:2": "http://b:2"}
    assert [record.message for record in caplog.records] == [
        "the engine http://b:2 is named twice; once is enough"
    ]


def test_discovery_needs_an_engine() -> None:
    with pytest.raises(SettingsError):
        Discovery(" , ")


async def test_dns_is_asked_again_and_numbers_stay() -> None:
    names = Names("10.0.0.1", "10.0.0.2")
    discovery = names.discovery()
    first = {"engines:30000/0": "http://10.0.0.1:30000", "engines:30000/1": "http://10.0.0.2:30000"}
    assert await found(discovery) == first
    names.addresses = ["10.0.0.2", "fd00::7"]
    assert await found(discovery) == first
    assert names.asked == 1
    names.now += DNS_EVERY_S
    assert await found(discovery) == {
        "engines:30000/1": "http://10.0.0.2:30000",
        "engines:30000/0": "http://[fd00::7]:30000",
    }


async def test_dns_that_fails_takes_no_engine_away() -> None:
    names = Names("10.0.0.1")
    discovery = names.discovery()
    first = await found(discovery)
    names.addresses = None
    names.now += DNS_EVERY_S
    assert await found(discovery) == first


async def test_file_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "engines"
    file.write_text("# two\nhttp://a:1  # first\n\nhttp://e-{0..1}:1\n")
    discovery = Discovery("http://unused:1", file)
    assert list(await found(discovery)) == ["a:1", "e-0:1", "e-1:1"]
    file.write_text("http://b:1")
    assert list(await found(discovery)) == ["b:1"]
    file.write_text("")
    assert await found(discovery) == {}
    file.write_text("b:1")
    caplog.set_level(logging.WARNING)
    caplog.clear()
    for _ in range(2):
        assert await found(discovery) == {}
    file.unlink()
    assert await found(discovery) == {}
    assert len(caplog.records) == 2
    assert all("stay as they were" in record.message for record in caplog.records)


def test_file_that_is_missing_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        Discovery("", tmp_path / "engines")


async def test_options_are_those_of_every_engine_of_an_item(tmp_path: Path) -> None:
    file = tmp_path / "engines"
    file.write_text("http://e-{0..1}:1;version=old http://new:1;version=new;weight=5%")
    options = {engine.name: engine.options for engine in await Discovery("", file).look()}
    assert {name: one.version for name, one in options.items()} == {
        "e-0:1": "old",
        "e-1:1": "old",
        "new:1": "new",
    }
    assert str(options["new:1"].weight) == "5%"
    names = Names("10.0.0.1", "10.0.0.2")
    discovery = Discovery("dns+http://engines:1;weight=2", lookup=names.lookup, now=lambda: names.now)
    assert [str(engine.options.weight) for engine in await discovery.look()] == ["2", "2"]


def test_engine_with_options_is_not_a_single_url() -> None:
    assert is_single("http://a:1")
    assert not is_single("http://a:1;version=new")
