"""FastAPI exception handlers that raise an `ApiError`, which `RequestEdge` turns into a response.

FastAPI's own handlers would respond in another format, and to an invalid body with 422.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, NoReturn

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serval.api.endpoints import EndpointTable
from serval.errors import InvalidRequestError, MethodNotAllowedError, NotFoundError
from serval.wire.decode import invalid_value, missing_parameter, unknown_parameter

Handler = Callable[[Request, Exception], Coroutine[Any, Any, NoReturn]]

# Pydantic's errors about the type of a value, beside those whose names end with `_type`.
_TYPE_ERRORS: Final = frozenset({"int_from_float"})


def exception_handlers(endpoints: EndpointTable) -> Mapping[Any, Handler]:
    """Return the handlers of an application with these `endpoints`."""

    async def raise_http_error(request: Request, error: Exception) -> NoReturn:
        assert isinstance(error, HTTPException)
        place = f"{request.method} {request.url.path}"
        if error.status_code == 404:
            raise NotFoundError(f"Unknown URL ({place}). {_advice(request.url.path, endpoints)}")
        if error.status_code == 405:
            # The router names only the methods of the first route with this path.
            allow = ", ".join(endpoints.find(request.url.path).methods)
            raise MethodNotAllowedError(
                f"This method is not allowed here ({place}). Allowed: {allow}.", allow=allow
            )
        raise InvalidRequestError(str(error.detail))

    return {
        HTTPException: raise_http_error,
        RequestValidationError: _raise_validation_error,
        # Otherwise Starlette's outermost middleware would respond in plain text.
        Exception: _raise_unchanged,
    }


def _advice(path: str, endpoints: EndpointTable) -> str:
    """Say what is likely wrong with a path that is not known."""
    # OpenAI's clients expect the version in their base URL; Anthropic's add it themselves.
    without, doubled = f"/v1{path}", path.removeprefix("/v1")
    if endpoints.find(without).methods:
        return f"Did you mean {without}? The base URL of your client then ends in /v1."
    if path.startswith("/v1/v1/") and endpoints.find(doubled).methods:
        return f"Did you mean {doubled}? The base URL of your client then ends without /v1."
    return "Check the path and the base URL of your client."


async def _raise_unchanged(request: Request, error: Exception) -> NoReturn:
    raise error


async def _raise_validation_error(request: Request, error: Exception) -> NoReturn:
    assert isinstance(error, RequestValidationError)
    raise validation_error(error.errors(), error.body) from None


def validation_error(errors: Sequence[Mapping[str, Any]], body: Any) -> InvalidRequestError:
    """Translate pydantic's errors in `body`; the result names the first field at fault."""
    first = errors[0]
    path = _path_in(body, first)
    if first["type"] == "missing":
        return missing_parameter(path)
    if first["type"] == "extra_forbidden":
        return unknown_parameter(path)
    # A union yields one error for each of its types.
    same = [error for error in errors if _path_in(body, error) == path]
    reasons = dict.fromkeys(error["msg"][:1].lower() + error["msg"][1:] for error in same)
    code = "invalid_type" if all(map(_is_type_error, same)) else "invalid_value"
    return invalid_value(", or ".join(reasons), path, code=code)


def _is_type_error(error: Mapping[str, Any]) -> bool:
    kind: str = error["type"]
    if kind == "literal_error":
        # All literals of the API are strings.
        return not isinstance(error["input"], str)
    return kind.endswith("_type") or kind in _TYPE_ERRORS


def _path_in(body: Any, error: Mapping[str, Any]) -> str:
    """Return the path of the field at fault, such as `models[0]`.

    Pydantic's locations also name the types of unions, which are not keys of the body and are left out.
    """
    path = ""
    place, *location = error["loc"]
    if place == "query":
        # A parameter, with an index if it is given several times.
        return "".join(f"[{key}]" if isinstance(key, int) else key for key in location)
    for step, key in enumerate(location, start=1):
        if isinstance(key, int):
            path += f"[{key}]"
            body = body[key]
        elif isinstance(body, dict) and key in body:
            path += f".{key}" if path else str(key)
            body = body[key]
        elif error["type"] == "missing" and step == len(location):
            path += f".{key}" if path else str(key)
    return path
