"""Handlers of pages and of forms: who may reach them, and from where."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from serval.console import endpoints
from serval.console.forms import Form, check_origin, forged, read_form
from serval.console.parts import Console
from serval.console.sessions import Session
from serval.errors import AuthenticationError

Endpoint = Callable[[Request], Awaitable[Response]]
PageHandler = Callable[[Console, Request, Session], Awaitable[Response]]
FormHandler = Callable[[Console, Request, Session, Form], Awaitable[Response]]

TOKEN_FIELD = "token"  # noqa: S105  # its name
TOKEN_HEADER = "x-serval-console"  # noqa: S105  # its name


def for_page(console: Console, handler: PageHandler) -> Endpoint:
    """Return an endpoint that leads to the sign-in first."""

    async def endpoint(request: Request) -> Response:
        session = console.sessions.read(request)
        if session is None:
            return RedirectResponse(endpoints.SIGN_IN.path, status_code=303)
        return await handler(console, request, session)

    return endpoint


def for_form(console: Console, handler: FormHandler) -> Endpoint:
    """Return an endpoint of a form, which must come from a page of the session.

    Raises `PermissionDeniedError` for a forged one, and `AuthenticationError` without a session.
    """

    async def endpoint(request: Request) -> Response:
        session = required_session(console, request)
        form = await read_form(request)
        if not console.sessions.has_form_token(session, form.text(TOKEN_FIELD)):
            raise forged()
        return await handler(console, request, session, form)

    return endpoint


def required_session(console: Console, request: Request) -> Session:
    """Return the session of a request that may change something, sent by a page of the console.

    Its token is for the caller to check. Raises `PermissionDeniedError` or `AuthenticationError`.
    """
    check_origin(request, console.url)
    session = console.sessions.read(request)
    if session is None:
        raise AuthenticationError("Your session has ended. Sign in again.")
    return session


def check_token_header(console: Console, request: Request) -> None:
    """Raise unless a script of the session's own page sent this request."""
    session = required_session(console, request)
    if not console.sessions.has_form_token(session, request.headers.get(TOKEN_HEADER, "")):
        raise forged()
