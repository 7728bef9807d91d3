"""Reading an uploaded file from a multipart form, piece by piece: it is never held in memory."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive, Scope

from serval.api.http import ClientGoneError, header
from serval.errors import BodyTooLargeError, InvalidRequestError
from serval.wire.decode import missing_parameter

_FILE: Final = "file"
# The parser is slow, and each part costs memory.
_MOST_PARTS: Final = 100
# Limit of all fields but the file, and of the form's framing.
_MOST_FIELD_BYTES: Final = 1 << 16
# So many bytes are written at a time.
_WRITE_BYTES: Final = 1 << 20
_MAX_FILENAME: Final = 255


@dataclass
class UploadedForm:
    """The form: name and size of its file, whose content was written, and the other fields."""

    filename: str = ""
    size: int = 0
    fields: dict[str, str] = field(default_factory=dict)


async def receive_upload(
    scope: Scope, receive: Receive, write: Callable[[bytes], Awaitable[object]], *, max_bytes: int
) -> UploadedForm:
    """Read the form, and `write` the content of its file, of at most `max_bytes`.

    Raises `InvalidRequestError`, `BodyTooLargeError`, `ClientGoneError`, and what `write` raises.
    """
    media_type, options = parse_options_header(header(scope, b"content-type"))
    boundary = options.get(b"boundary")
    if media_type != b"multipart/form-data" or not boundary:
        raise InvalidRequestError(
            "Send the file as a form with 'Content-Type: multipart/form-data' and a boundary.",
            code="invalid_content_type",
        )
    parts = _Parts(max_bytes)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.add_name,
                "on_header_value": parts.add_value,
                "on_header_end": parts.end_header,
                "on_headers_finished": parts.end_headers,
                "on_part_data": parts.add_data,
                "on_part_end": parts.end,
            },
        )
        received = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            received += len(chunk)
            if received > max_bytes + _MOST_FIELD_BYTES:
                raise BodyTooLargeError(max_bytes)
            parser.write(chunk)
            if len(parts.unwritten) >= _WRITE_BYTES:
                await write(parts.take_unwritten())
            if not message.get("more_body", False):
                break
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequestError(f"The form cannot be read: {error}.", code="invalid_form") from None
    if parts.form is None or not parts.is_ended:
        raise missing_parameter(_FILE)
    if parts.unwritten:
        await write(parts.take_unwritten())
    parts.form.fields = dict(parts.fields)
    return parts.form


class _Parts:
    """Callbacks of the parser: fields are kept, the file's content is collected to be written."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._name = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._field = ""
        self._content: bytearray | None = None
        self._field_bytes = 0
        self._parts = 0
        self.unwritten = bytearray()
        self.fields: dict[str, str] = {}
        self.form: UploadedForm | None = None
        self.is_ended = False

    def take_unwritten(self) -> bytes:
        """Return what is to be written, which then counts as written."""
        taken = bytes(self.unwritten)
        self.unwritten.clear()
        return taken

    def begin(self) -> None:
        self._headers = {}
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise InvalidRequestError(f"The form has more than {_MOST_PARTS} parts.", code="invalid_form")

    def add_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def end_header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._field = _text(options.get(b"name", b""))
        if self._field != _FILE:
            self._content = bytearray()
            return
        if self.form is not None:
            raise InvalidRequestError("The form has two files; send one.", param=_FILE)
        self._content = None
        # A name that the client may choose freely; nothing here uses it as a path.
        self.form = UploadedForm(_text(options.get(b"filename", b""))[-_MAX_FILENAME:])

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self._content is None:
            assert self.form is not None
            self.form.size += end - start
            if self.form.size > self._max_bytes:
                raise BodyTooLargeError(self._max_bytes)
            self.unwritten += data[start:end]
            return
        self._field_bytes += end - start
        if self._field_bytes > _MOST_FIELD_BYTES:
            raise BodyTooLargeError(_MOST_FIELD_BYTES)
        self._content += data[start:end]

    def end(self) -> None:
        if self._content is None:
            self.is_ended = True
        else:
            self.fields[self._field] = _text(bytes(self._content))


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError("The form is not UTF-8.", code="invalid_form") from None
    if "\0" in text:
        # PostgreSQL refuses it.
        raise InvalidRequestError("The form has a NUL character.", code="invalid_form")
    return text
