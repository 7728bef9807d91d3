"""Other packages are as server/UPSTREAM.md says. After an upgrade this names the rows to read again."""

import re
import tomllib
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any, NamedTuple

import httptools
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values

from serval.telemetry import metrics
from serval.terminal.stages import STAGES
from serval_testkit.upstream_source import find_source

REPOSITORY = Path(__file__).parents[2]
TABLE = (REPOSITORY / "server/UPSTREAM.md").read_text(encoding="utf-8")
BOUNDED = ("fastapi", "httptools", "prometheus-client", "starlette", "uvicorn")


class Touchpoint(NamedTuple):
    package: str
    file: str
    name: str
    lines: str
    digest: str


TOUCHPOINTS = [
    Touchpoint(*found.groups())
    for found in re.finditer(r"\| (\w+) \| `([\w/.]+\.py)` \| `([\w.]+)` \| (\d+-\d+) \| (\w+) \|", TABLE)
]


@pytest.mark.parametrize("touchpoint", TOUCHPOINTS, ids=lambda each: f"{each.package}:{each.name}")
def test_upstream_source_is_as_it_was(touchpoint: Touchpoint) -> None:
    source = find_source(touchpoint.package, touchpoint.file, touchpoint.name)
    assert (touchpoint.lines, touchpoint.digest) == (source.lines, source.digest), (
        f"{touchpoint.name} has changed: read it, then write {source.lines} and {source.digest} into its row."
    )


LOG_TEXTS = re.findall(r"\| (\w+) \| `([\w/.]+\.py)` \| `([^`]+)` \|\n", TABLE)


@pytest.mark.parametrize(("package", "file", "text"), LOG_TEXTS)
def test_upstream_log_text_is_written(package: str, file: str, text: str) -> None:
    root = Path(str(distribution(package).locate_file(package)))
    assert text in (root / file).read_text(encoding="utf-8")


def test_upstream_table_names_every_log_text() -> None:
    assert [text for _, _, text in LOG_TEXTS] == [text for text, _ in STAGES]


@pytest.mark.parametrize("package", ["uvicorn", "prometheus_client", "httptools"])
def test_upstream_table_names_the_installed_version(package: str) -> None:
    assert f"{package} {version(package)}" in TABLE
    assert any(touchpoint.package == package for touchpoint in TOUCHPOINTS) or package == "httptools"


@pytest.mark.parametrize("package", BOUNDED)
def test_upstream_package_has_an_upper_bound(package: str) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (requirement,) = [each for each in project["dependencies"] if re.match(rf"{package}[<>=]", each)]
    assert "<" in requirement
    locked = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    assert f"\n{package}=={version(package)} " in locked


@pytest.fixture(params=["one process", "several"])
def registry(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    if request.param == "several":
        monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
        monkeypatch.setattr(values, "ValueClass", values.MultiProcessValue(lambda: 1))  # type: ignore[no-untyped-call]
    return CollectorRegistry()


def exposition(registry: CollectorRegistry, name: str) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return [line.removeprefix(name) for line in lines if line.startswith(name) and "_created" not in line]


def test_metrics_add_does_what_inc_does(registry: CollectorRegistry) -> None:
    for kind in (Counter, Gauge):
        plain = kind(f"plain_{kind.__name__}", "", ["a"], registry=registry).labels("x")
        ours = kind(f"ours_{kind.__name__}", "", ["a"], registry=registry).labels("x")
        for amount in (1, 2.5):
            plain.inc(amount)
            metrics._add(ours, amount)
        assert exposition(registry, f"ours_{kind.__name__}") == exposition(registry, f"plain_{kind.__name__}")


@pytest.mark.parametrize("values_", [[0.5, 1.0, 1.5, 7.0], [-1.0], []])
def test_metrics_observe_matches_histogram_observe(registry: CollectorRegistry, values_: list[float]) -> None:
    buckets = (1.0, 2.0, 5.0)
    plain = Histogram("plain", "", buckets=buckets, registry=registry)
    ours = Histogram("ours", "", buckets=buckets, registry=registry)
    added = Histogram("added", "", buckets=buckets, registry=registry)
    counts = [0] * (len(buckets) + 1)
    for value in values_:
        plain.observe(value)
        metrics._observe(ours, value)
        counts[next((place for place, bound in enumerate(buckets) if value <= bound), len(buckets))] += 1
    metrics._add_counts(added, counts, sum(values_))
    assert exposition(registry, "ours") == exposition(registry, "plain") == exposition(registry, "added")


class Parsed:
    """Callbacks of httptools that keep what they are told."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.parser = httptools.HttpRequestParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.events.append(name)

    def on_headers_complete(self) -> None:
        self.events.append(self.parser.should_upgrade())

    def on_body(self, body: bytes) -> None:
        self.events.append(body)

    def on_message_complete(self) -> None:
        self.events.append("complete")


HEAD = b"POST / HTTP/1.1\r\n"


@pytest.mark.parametrize("cut", [0, 30])
def test_httptools_reports_the_end_of_a_head_that_offers_an_upgrade(cut: int) -> None:
    parsed = Parsed()
    request = HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}"
    parsed.parser.feed_data(request[:cut])
    with pytest.raises(httptools.HttpParserUpgrade) as upgrade:
        parsed.parser.feed_data(request[cut:])
    assert request[cut:][upgrade.value.args[0] :] == b"{}"
    assert parsed.events == [b"Connection", b"Upgrade", b"Content-Length", True, "complete"]


def test_httptools_skips_data_behind_a_request_that_closes_the_connection() -> None:
    parsed = Parsed()
    parsed.parser.set_dangerous_leniencies(lenient_data_after_close=True)
    request = HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"
    parsed.parser.feed_data(request + HEAD)
    assert parsed.events == [b"Connection", b"Content-Length", False, b"{}", "complete"]
    with pytest.raises(httptools.HttpParserError):
        Parsed().parser.feed_data(request + HEAD)


def test_httptools_ends_at_an_error_of_a_callback_and_keeps_it() -> None:
    class Failing(Parsed):
        def on_headers_complete(self) -> None:
            raise LookupError

    failing = Failing()
    with pytest.raises(httptools.HttpParserCallbackError) as caught:
        failing.parser.feed_data(HEAD + b"Content-Length: 2\r\n\r\n{}" + HEAD + b"X: a\r\n\r\n")
    assert isinstance(caught.value.__context__, LookupError)
    assert failing.events == [b"Content-Length"]


def test_httptools_keeps_white_space_after_a_value() -> None:
    values = []

    class Valued(Parsed):
        def on_header(self, name: bytes, value: bytes) -> None:
            values.append(value)

    Valued().parser.feed_data(HEAD + b"X:  a b \t\r\n\r\n")
    assert values == [b"a b \t"]


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (b"GET  / HTTP/1.1", "1.1"),
        (b"GET / RTSP/1.0", "1.0"),
        (b"GET / HTTP/2.0", "2.0"),
        (b"GET / HTTP/0.9", "0.9"),
        (b"GET /", "0.9"),
    ],
)
def test_httptools_takes_request_lines_that_are_not_of_http_1(line: bytes, version: str) -> None:
    parsed = Parsed()
    parsed.parser.feed_data(line + b"\r\n\r\n")
    assert (parsed.parser.get_http_version(), parsed.events) == (version, [False, "complete"])


def test_httptools_reports_trailer_fields_as_headers() -> None:
    parsed = Parsed()
    parsed.parser.feed_data(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: a\r\n\r\n")
    assert parsed.events == [b"Transfer-Encoding", False, b"{}", b"X", "complete"]
