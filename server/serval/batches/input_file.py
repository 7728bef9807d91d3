"""Lines of a batch's input file, and the checks that each must pass before any is run."""

from collections.abc import Callable, Iterator
from typing import IO, Any, Final

import msgspec
from msgspec import Struct

from serval.errors import ApiError
from serval.store.batch_lines import LineStart

# Longest line: so many bytes for each line that runs are held in memory.
MAX_LINE_BYTES: Final = 4 << 20
_MAX_CUSTOM_ID: Final = 512
# Further errors are not looked for.
_MOST_ERRORS: Final = 100
# Errors are kept with the batch; a message may quote a text of the line, which may be long.
_MAX_ERROR_TEXT: Final = 500

# Checks the body of a request to the batch's endpoint, as that endpoint does. Raises `ApiError`.
CheckBody = Callable[[bytes], None]


class InputRequest(Struct):
    """A line: a request under an id that the client chose."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


_decoder: "msgspec.json.Decoder[InputRequest]" = msgspec.json.Decoder(InputRequest)


def read_request(line: bytes) -> InputRequest:
    """Decode a line. Raises msgspec's errors."""
    return _decoder.decode(line)


def lines_of(file: IO[bytes]) -> Iterator[tuple[LineStart, bytes]]:
    """The lines of a file. Of a line that is too long, only its beginning is read."""
    number = offset = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        start = offset
        offset += len(line)
        yield LineStart(number, start, len(line)), line
        if not line.endswith(b"\n") and len(line) > MAX_LINE_BYTES:
            return


class InputCheck:
    """Checks lines one by one; `starts` are those that are good so far, `errors` are OpenAI's objects."""

    def __init__(self, endpoint: str, check_body: CheckBody, *, max_lines: int) -> None:
        self._endpoint = endpoint
        self._check_body = check_body
        self._max_lines = max_lines
        self._custom_ids: set[str] = set()
        self.starts: list[LineStart] = []
        self.errors: list[dict[str, Any]] = []
        # There are so many errors that no more are looked for.
        self.is_over = False

    def add(self, start: LineStart, line: bytes) -> None:
        """Check the next line. Empty ones are skipped."""
        # A file of nothing but line feeds would be read for minutes.
        most_with_empty = 2 * self._max_lines
        if not line.strip() and start.number <= most_with_empty:
            return
        if len(self.starts) + len(self.errors) >= self._max_lines or start.number > most_with_empty:
            self._add_error(
                start.number,
                "too_many_lines",
                f"A batch may have {self._max_lines} lines at most; divide the file.",
            )
            self.is_over = True
            return
        before = len(self.errors)
        if start.length > MAX_LINE_BYTES:
            text = f"The line is longer than {MAX_LINE_BYTES} bytes, the most that a line may have."
            self._add_error(start.number, "line_too_long", text)
        else:
            self._check(start.number, line)
        if len(self.errors) == before:
            self.starts.append(start)

    def finish(self) -> None:
        """Note the end of the file."""
        if not self.starts and not self.errors:
            self._add_error(None, "empty_file", "The input file has no lines.")

    def _check(self, number: int, line: bytes) -> None:
        try:
            request = read_request(line)
        except msgspec.ValidationError as error:
            self._add_error(number, "invalid_line", f"This line is not a request of a batch: {error}.")
            return
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._add_error(number, "invalid_json_line", "This line is not parseable as valid JSON.")
            return
        if not 0 < len(request.custom_id) <= _MAX_CUSTOM_ID:
            text = f"custom_id must have 1 to {_MAX_CUSTOM_ID} characters."
            self._add_error(number, "invalid_custom_id", text, "custom_id")
        elif request.custom_id in self._custom_ids:
            text = "The custom_id is that of an earlier line; it must be unique in a batch."
            self._add_error(number, "duplicate_custom_id", text, "custom_id")
        elif request.method != "POST":
            self._add_error(number, "invalid_method", "The method must be POST.", "method")
        elif request.url != self._endpoint:
            text = f"The url must be the endpoint of the batch, {self._endpoint}."
            self._add_error(number, "mismatched_endpoint", text, "url")
        else:
            self._custom_ids.add(request.custom_id)
            try:
                self._check_body(bytes(request.body))
            except ApiError as error:
                param = "body" if error.param is None else f"body.{error.param}"
                self._add_error(number, error.code or "invalid_request", error.message, param)

    def _add_error(self, line: int | None, code: str, message: str, param: str | None = None) -> None:
        message, param = message[:_MAX_ERROR_TEXT], param and param[:_MAX_ERROR_TEXT]
        self.errors.append({"code": code, "line": line, "message": message, "param": param})
        self.is_over = self.is_over or len(self.errors) >= _MOST_ERRORS
