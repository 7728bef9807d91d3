"""The answer to a line: its result, or a reason to run the line again later."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from serval.store.batch_lines import Line, LineResult

# Failures of the engine after which a line's error is its result: the line may be what the engine fails on.
MOST_ATTEMPTS: Final = 5
# Limits may be raised meanwhile, and engines come back.
_LONGEST_CALLER_WAIT_S: Final = 60.0
_LONGEST_SERVER_WAIT_S: Final = 5.0
_ENGINE_STATUSES: Final = frozenset({500, 502, 504})
_SHUTTING_DOWN: Final = "shutting_down"


@dataclass(frozen=True)
class Answer:
    """An HTTP response. Names of headers are in lower case."""

    status: int
    request_id: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Retry:
    """The line is to be run again, when the `of` it have waited for `wait_s`."""

    of: Literal["caller", "server", "line", "stop"]
    wait_s: float = 0.0


class _Details(Struct):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Usage(Struct):
    # Names of Chat Completions, then those of Responses.
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Body(Struct):
    usage: _Usage | None = None


class _Error(Struct):
    code: str | None = None


class _ErrorBody(Struct):
    error: _Error


_body_decoder: "msgspec.json.Decoder[_Body]" = msgspec.json.Decoder(_Body)
_error_decoder: "msgspec.json.Decoder[_ErrorBody]" = msgspec.json.Decoder(_ErrorBody)
_NO_DETAILS: Final = _Details()


def retry_of(answer: Answer, attempts: int) -> Retry | None:
    """Return when to run a line again that got this answer, or None if the answer is its result.

    `attempts`: failures of the engine before this one.
    """
    if answer.status == 429:
        return Retry("caller", min(max(_wait_s(answer), 0.1), _LONGEST_CALLER_WAIT_S))
    if answer.status == 503:
        if _error_decoder.decode(answer.body).error.code == _SHUTTING_DOWN:
            return Retry("stop")
        return Retry("server", min(max(_wait_s(answer), 0.5), _LONGEST_SERVER_WAIT_S))
    if answer.status in _ENGINE_STATUSES and attempts + 1 < MOST_ATTEMPTS:
        return Retry("line", 1.0)
    return None


def _wait_s(answer: Answer) -> float:
    if "retry-after-ms" in answer.headers:
        return float(answer.headers["retry-after-ms"]) / 1000
    return float(answer.headers.get("retry-after", "0"))


def result_of(line: Line, custom_id: str, answer: Answer) -> LineResult:
    """Return the result of a line that got this answer."""
    response = {
        "status_code": answer.status,
        "request_id": answer.request_id,
        "body": msgspec.Raw(answer.body),
    }
    text = _output_line(custom_id, response=response, error=None)
    if answer.status != 200:
        return LineResult(line.batch_id, line.number, failed=True, text=text)
    usage = _body_decoder.decode(answer.body).usage or _Usage()
    incoming = usage.prompt_tokens_details or usage.input_tokens_details or _NO_DETAILS
    outgoing = usage.completion_tokens_details or usage.output_tokens_details or _NO_DETAILS
    return LineResult(
        line.batch_id,
        line.number,
        failed=False,
        text=text,
        input_tokens=usage.prompt_tokens + usage.input_tokens,
        cached_tokens=incoming.cached_tokens,
        output_tokens=usage.completion_tokens + usage.output_tokens,
        reasoning_tokens=outgoing.reasoning_tokens,
    )


def error_line(custom_id: str, *, code: str, message: str) -> bytes:
    """Return the line of the error file of a line without an answer."""
    return _output_line(custom_id, response=None, error={"code": code, "message": message})


def unexecuted_line(custom_id: str, *, cancelled: bool) -> bytes:
    """Return the line of the error file of a line that was not run."""
    if cancelled:
        return error_line(
            custom_id,
            code="batch_cancelled",
            message="This request was not executed before the batch was cancelled.",
        )
    return error_line(
        custom_id,
        code="batch_expired",
        message="This request could not be executed before the completion window expired.",
    )


def _output_line(custom_id: str, **rest: Any) -> bytes:
    line = {"id": f"batch_req_{secrets.token_hex(16)}", "custom_id": custom_id, **rest}
    return msgspec.json.encode(line) + b"\n"
