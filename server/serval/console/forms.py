"""Forms that a page sends: read within a bound, and accepted from the console's own pages alone."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.requests import Request

from serval.errors import BodyTooLargeError, InvalidRequestError, PermissionDeniedError

_MOST_BYTES: Final = 1 << 16
_MOST_FIELDS: Final = 100
_FORGED: Final = "This request does not come from a page of this console. Load the page again and retry."


class Form:
    """Fields of a form. A field that was not sent is empty."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def text(self, name: str) -> str:
        """Return the field without white space around it."""
        return self._fields.get(name, [""])[-1].strip()

    def all(self, name: str) -> list[str]:
        """Return all values of a field, such as of check boxes."""
        return self._fields.get(name, [])


async def read_form(request: Request) -> Form:
    """Read the form of a request. Raises `BodyTooLargeError` or `InvalidRequestError`."""
    body = await read_body(request, max_bytes=_MOST_BYTES)
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError as error:
        raise InvalidRequestError("The form cannot be read.") from error
    return Form(fields)


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Read the body of a request. Raises `BodyTooLargeError`."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise BodyTooLargeError(max_bytes)
    return body


def check_origin(request: Request, console_url: str | None) -> None:
    """Raise `PermissionDeniedError` unless a page of the console sent this request.

    Browsers name the origin of the page with every request that may change something, and no page can alter
    that. Behind a proxy that does not pass the host on, `console_url` tells the address of the console.
    """
    hosts = {request.headers.get("host", "")} | ({urlsplit(console_url).netloc} if console_url else set())
    try:
        origin = urlsplit(request.headers.get("origin", "")).netloc
    except ValueError:
        # Such as of `http://[`.
        raise forged() from None
    if not origin or origin not in hosts:
        raise forged()


def forged() -> PermissionDeniedError:
    """Return the error of a request without the session's token."""
    return PermissionDeniedError(_FORGED, code="forged_request")


def is_https(request: Request) -> bool:
    """Return True if the browser uses https; a proxy that ends TLS says so in `X-Forwarded-Proto`."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))


def origin_of(request: Request, console_url: str | None) -> str:
    """Return the origin at which the browser reaches the console."""
    if console_url:
        return console_url.rstrip("/")
    return f"{'https' if is_https(request) else 'http'}://{request.headers.get('host', '')}"
