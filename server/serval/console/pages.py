"""Pages from templates, with the headers that keep other sites and injected text out of them."""

import time
from pathlib import Path
from typing import Any, Final

import jinja2
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serval.console import endpoints
from serval.console.sessions import Session, Sessions
from serval.errors import ApiError

_TEMPLATES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_MENU: Final = (
    ("Now", endpoints.NOW.path),
    ("Usage", endpoints.USAGE.path),
    ("Keys", endpoints.KEYS.path),
    ("Teams", endpoints.TEAMS.path),
    ("Batches", endpoints.BATCHES.path),
    ("Playground", endpoints.PLAYGROUND.path),
)
HEADERS: Final = {
    # Only files of this server; Pico's pictures of arrows and check marks are in its style sheet.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With `no-referrer` browsers would send forms with the origin `null`.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def number(value: float) -> str:
    """Return a count with thin spaces between thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def _when(unix_time: float | None) -> str:
    return "" if unix_time is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(unix_time))


_TEMPLATES.filters |= {"number": number, "when": _when}


def part(template: str, **values: Any) -> HTMLResponse:
    """Return a piece of a page, which a script puts in its place."""
    return HTMLResponse(_TEMPLATES.get_template(template).render(**values))


def page(
    request: Request,
    template: str,
    *,
    session: Session | None = None,
    sessions: Sessions | None = None,
    error: ApiError | None = None,
    status: int | None = None,
    **values: Any,
) -> HTMLResponse:
    """Return a page; one with a session has the menu and the token of its forms.

    It has this `status`, else that of its error, else 200.
    """
    signed_in = session is not None and sessions is not None
    content = _TEMPLATES.get_template(template).render(
        menu=_MENU if signed_in else (),
        path=request.url.path,
        session=session,
        token=sessions.form_token(session) if session is not None and sessions is not None else "",
        urls=endpoints,
        error=None if error is None else error.message,
        **values,
    )
    return HTMLResponse(content, status_code=status or (200 if error is None else error.status))


def with_headers(app: ASGIApp) -> ASGIApp:
    """Return `app` with `HEADERS` on all responses, in place of its own of these names."""

    async def protected(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await app(scope, receive, send_with_headers)

    return protected
