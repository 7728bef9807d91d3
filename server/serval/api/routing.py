"""What the router raises, as errors of ours, which `RequestEdge` answers."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import Request

from serval.errors import InvalidRequestError, MethodNotAllowedError, NotFoundError


async def _raise_as_api_error(request: Request, error: Exception) -> NoReturn:
    if not isinstance(error, HTTPException):
        raise error
    place = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        raise NotFoundError(f"Unknown URL ({place}). Check the path and the base URL of your client.")
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        raise MethodNotAllowedError(
            f"This method is not allowed here ({place}). Allowed: {allow}.", allow=allow
        )
    raise InvalidRequestError(str(error.detail))


# For Starlette's ExceptionMiddleware.
ROUTING_ERRORS: Final[Mapping[Any, Callable[[Request, Exception], Any]]] = {
    HTTPException: _raise_as_api_error
}
