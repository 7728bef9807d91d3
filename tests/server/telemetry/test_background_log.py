"""Log lines are written in the background, and a blocked stream delays no request."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from serval.telemetry.logs import BackgroundHandler, JsonFormatter


class Gate(io.StringIO):
    """A stream that blocks until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.asked = threading.Event()
        self.fails = False

    def write(self, text: str) -> int:
        self.asked.set()
        self.opened.wait(30)
        if self.fails:
            raise OSError(28, "No space left on device")
        return super().write(text)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def logger(gate: Gate) -> Iterator[logging.Logger]:
    handler = BackgroundHandler(gate)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    yield logger
    gate.opened.set()
    handler.close()


def lines(gate: Gate) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gate.getvalue().splitlines()]


def close(logger: logging.Logger) -> None:
    logger.handlers[0].close()


def test_background_handler_writes_everything_without_blocking(logger: logging.Logger, gate: Gate) -> None:
    for number in range(100):
        logger.warning("line %d", number)
    assert gate.getvalue() == ""
    gate.opened.set()
    close(logger)
    assert [line["event"] for line in lines(gate)] == [f"line {number}" for number in range(100)]


def test_background_handler_counts_lines_without_room(logger: logging.Logger, gate: Gate) -> None:
    logger.warning("first")
    assert gate.asked.wait(30)
    for number in range(10_005):
        logger.warning("%d", number)
    gate.opened.set()
    close(logger)
    events = [(line["event"], line.get("lines")) for line in lines(gate)]
    assert events[:2] == [("first", None), ("log lines were lost", 5)]
    assert len(events) == 2 + 10_000


def test_background_handler_reports_lost_lines_after_a_full_disk(logger: logging.Logger, gate: Gate) -> None:
    gate.fails = True
    gate.opened.set()
    logger.warning("lost")
    # The next line is written once the disk has room again.
    while logger.handlers[0]._lost == 0:  # type: ignore[attr-defined]
        threading.Event().wait(0.01)
    gate.fails = False
    logger.warning("kept")
    close(logger)
    assert [line["event"] for line in lines(gate)] == ["log lines were lost", "kept"]
    assert lines(gate)[0]["lines"] == 1


def test_background_handler_survives_a_closed_stream(logger: logging.Logger, gate: Gate) -> None:
    gate.close()
    gate.opened.set()
    logger.warning("lost")
    close(logger)
