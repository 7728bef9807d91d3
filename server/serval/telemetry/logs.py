"""JSON log lines: one for each request, and one for each other event. No prompt, no answer, no key."""

import json
import logging
import sys
import time
from typing import Any

from serval.telemetry.record import RequestRecord

_requests = logging.getLogger("serval.requests")


class JsonFormatter(logging.Formatter):
    """One JSON object a line; `extra={"fields": {...}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line for `record`.

        JSON escapes line breaks and control characters, so no line can be forged.
        """
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure_logging(level: int = logging.INFO) -> None:
    """Send the loggers of Serval and of its HTTP server to standard error as JSON lines.

    For the command line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name, least in (("serval", level), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(least)
        logger.propagate = False


def log_request(record: RequestRecord) -> None:
    """The one line of a request that is over."""
    _requests.info(
        "request",
        extra={
            "fields": {
                "request_id": record.request_id,
                "client_request_id": record.client_request_id,
                "key_id": record.key_id,
                "method": record.method,
                "route": record.route,
                "status": record.status or None,
                "client_gone": record.client_gone,
                "stream": record.stream,
                "model": record.model,
                "duration_ms": round(record.elapsed_s() * 1e3, 1),
                "first_token_ms": None
                if record.first_token_s is None
                else round(record.first_token_s * 1e3, 1),
                "prompt_tokens": record.prompt_tokens,
                "completion_tokens": record.completion_tokens,
                "cached_tokens": record.cached_tokens,
                "finish_reason": record.finish_reason,
                "error_code": record.error_code,
            }
        },
    )
