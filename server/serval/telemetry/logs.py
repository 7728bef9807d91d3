"""JSON log lines, one for each request and each other event. They hold no prompt, answer or key."""

import atexit
import logging
import sys
import threading
import time
from typing import Any, Final, TextIO

import msgspec
from msgspec import Struct

from serval.telemetry.record import RequestRecord
from serval.telemetry.stopwatch import GATEWAY

_requests = logging.getLogger("serval.requests")

# Lines waiting to be written; further ones are dropped to bound memory.
_MAX_WAITING: Final = 10_000
# Long enough for lines to come in batches, short enough for a batch not to delay requests.
_WRITE_EVERY_S: Final = 0.02
_encode = msgspec.json.Encoder().encode


class JsonFormatter(logging.Formatter):
    """Formats records as one JSON object a line; `extra={"fields": {...}}` adds fields."""

    def __init__(self) -> None:
        super().__init__()
        # Latest second and its text, which most lines share with the one before.
        self._second = (-1, "")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`.

        JSON escapes line breaks and control characters, so no line can be forged.
        """
        when = f"{self._second_text(int(record.created))}.{int(record.msecs):03d}Z"
        if isinstance(record, RequestEntry):
            return _encode(record.line(when)).decode()
        line: dict[str, Any] = {
            "time": when,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line).decode()

    def _second_text(self, second: int) -> str:
        latest, text = self._second
        if second != latest:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return text


class BackgroundHandler(logging.Handler):
    """Writes lines from its own thread, so that no request waits for the disk or the terminal.

    The thread wakes a few dozen times a second, not for each line, which would interrupt requests again and
    again. It also formats the lines of requests: in batches that costs a third as much. Lines that cannot be
    written because the stream is full, closed or too slow are dropped; a later line reports how many.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: list[str | RequestEntry] = []
        self._lost = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue `record`. The caller holds the handler's lock."""
        if len(self._waiting) < _MAX_WAITING:
            # Other records may change before the thread formats them.
            self._waiting.append(record if isinstance(record, RequestEntry) else self.format(record))
        else:
            self._lost += 1

    def close(self) -> None:
        """Write the waiting lines and end the thread."""
        self._closing.set()
        self._thread.join(timeout=2.0)
        super().close()

    def _write_on(self) -> None:
        assert self.lock is not None
        closing = False
        while not closing:
            closing = self._closing.wait(_WRITE_EVERY_S)
            with self.lock:
                entries, self._waiting = self._waiting, []
                lost, self._lost = (self._lost, 0) if entries else (0, self._lost)
            if not entries:
                continue
            lines = [entry if isinstance(entry, str) else self.format(entry) for entry in entries]
            notices = [self.format(_lost_entry(lost))] if lost else []
            try:
                self._stream.write("\n".join([*notices, *lines]) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                with self.lock:
                    self._lost += lost + len(lines)


def _lost_entry(count: int) -> logging.LogRecord:
    entry = logging.LogRecord("serval", logging.WARNING, "", 0, "log lines were lost", None, None)
    entry.__dict__["fields"] = {"lines": count}
    return entry


def configure_logging(level: str = "info") -> None:
    """Send the loggers of Serval, its HTTP server and its traces to standard error as JSON lines.

    Called by the command line, once per process. `level` is the lowest level of Serval's own lines.
    """
    handler = BackgroundHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    atexit.register(handler.close)
    for name, least in (("serval", level.upper()), ("uvicorn", "WARNING"), ("opentelemetry", "WARNING")):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least)
        logger.propagate = False


def log_request(record: RequestRecord) -> None:
    """Log the line of a request that has ended."""
    if _requests.isEnabledFor(logging.INFO):
        _requests.handle(RequestEntry(record))


# Attributes that the entries of all requests share.
_ENTRY: Final = logging.LogRecord(_requests.name, logging.INFO, "", 0, "request", None, None).__dict__


class RequestEntry(logging.LogRecord):
    """Log record of a request that has ended. `LogRecord.__init__` looks up caller, thread and process, which
    are not used and cost more than everything else."""

    def __init__(self, record: RequestRecord) -> None:
        now = time.time()
        self.__dict__ = {**_ENTRY, "created": now, "msecs": int(now % 1 * 1000)}
        self._record = record
        self._elapsed_s = record.elapsed_s()

    def line(self, when: str) -> "_RequestLine":
        """Return the request's line, as of the time `when`."""
        record, elapsed_s = self._record, self._elapsed_s
        return _RequestLine(
            time=when,
            level="info",
            logger=self.name,
            event=self.msg,
            request_id=record.request_id,
            client_request_id=record.client_request_id,
            engine_request_id=record.engine_request_id,
            key_id=record.key_id,
            method=record.method,
            route=record.route,
            status=record.status or None,
            client_gone=record.client_gone,
            stream=record.stream,
            model=record.model,
            duration_ms=_ms(elapsed_s),
            queue_ms=_ms(record.clock.queue_s(elapsed_s)),
            first_token_ms=_ms(record.first_token_s),
            gateway_ms=_ms(record.clock.seconds_in(GATEWAY, elapsed_s)),
            prompt_tokens=record.prompt_tokens,
            completion_tokens=record.completion_tokens,
            cached_tokens=record.cached_tokens,
            finish_reason=record.finish_reason,
            error_code=record.error_code,
            place=record.place,
            engine_version=record.engine_version,
        )


# A Struct: one is written for each request, and it costs half as much as a dictionary.
class _RequestLine(Struct, omit_defaults=True):
    """Fields in the order in which they are written."""

    time: str
    level: str
    logger: str
    event: str
    request_id: str
    client_request_id: str | None
    engine_request_id: str | None
    key_id: str | None
    method: str
    route: str
    status: int | None
    client_gone: bool
    stream: bool
    model: str | None
    duration_ms: float | None
    queue_ms: float | None
    first_token_ms: float | None
    gateway_ms: float | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    finish_reason: str | None
    error_code: str | None
    # Only with several engines.
    place: str | None = None
    engine_version: str | None = None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 1)
