"""Signing in by an admin key, the link of `serval serve --console` or the identity provider; signing out."""

import hmac
import logging
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from serval.api.http import record_of
from serval.caller.identity import ADMIN, Identity
from serval.console import endpoints
from serval.console.forms import Form, check_origin, is_https, origin_of, read_form
from serval.console.pages import page
from serval.console.parts import Console
from serval.console.sessions import ADMIN_KEY, DATABASE_KEY, LINK, Session
from serval.errors import ApiError, AuthenticationError, PermissionDeniedError

logger = logging.getLogger(__name__)


def sign_in_page(console: Console, request: Request, *, error: ApiError | None = None) -> Response:
    """Return the page with the form, and what was wrong with the last attempt."""
    if error is not None:
        # Counted and logged like a wrong key at the API.
        record_of(request.scope).error_code = error.code
    response = page(
        request,
        "sign_in.html",
        error=error,
        provider=console.provider is not None,
    )
    if error is not None and "retry-after" in error.headers:
        response.headers["retry-after"] = error.headers["retry-after"]
    return response


def sign_in(console: Console) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of the page and its form."""

    async def endpoint(request: Request) -> Response:
        if request.method != "POST":
            return sign_in_page(console, request)
        check_origin(request, console.url)
        try:
            count_attempt(console, request)
            form = await read_form(request)
            who = await _holder(console, form.text("key"))
        except (AuthenticationError, PermissionDeniedError) as error:
            return sign_in_page(console, request, error=_without_details(error))
        except ApiError as error:
            return sign_in_page(console, request, error=error)
        return begin(console, request, who)

    return endpoint


def enter(console: Console) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of the link that signs in once."""
    settings = console.context.settings
    codes = [] if settings.console_code is None else [settings.console_code.get_secret_value()]

    async def endpoint(request: Request) -> Response:
        if request.method != "GET":
            # A preview of the link must not use it up.
            return sign_in_page(console, request)
        try:
            count_attempt(console, request)
        except ApiError as error:
            return sign_in_page(console, request, error=error)
        given = request.query_params.get("code", "")
        if not (codes and hmac.compare_digest(codes[0].encode(), given.encode())):
            used = AuthenticationError("This link is not valid, or was used before. Sign in with a key.")
            return sign_in_page(console, request, error=used)
        codes.clear()
        return begin(console, request, LINK)

    return endpoint


def begin(console: Console, request: Request, who: str) -> Response:
    """Begin a session and lead to the first page.

    The page leads there by itself: after a redirect from another site, such as an identity provider's,
    browsers would not send the new cookie with the first request.
    """
    session = console.sessions.begin(who)
    logger.info("console signed in", extra={"fields": {"who": who}})
    response = page(request, "signed_in.html", target=endpoints.NOW.path)
    console.sessions.set_cookie(response, session, secure=is_https(request))
    return response


async def sign_out(console: Console, request: Request, session: Session, form: Form) -> Response:
    """End the session."""
    console.sessions.end(session)
    response = RedirectResponse(endpoints.SIGN_IN.path, status_code=303)
    console.sessions.clear_cookie(response, secure=is_https(request))
    return response


def count_attempt(console: Console, request: Request) -> None:
    """Count an attempt to sign in. Raises `RateLimitError` if there were too many."""
    console.attempts.count("" if request.client is None else request.client.host)


async def _holder(console: Console, key: str) -> str:
    """Return who a session with this key belongs to. Raises `ApiError` unless it may administer."""
    identity: Identity = await console.administrators.identify(f"Bearer {key}" if key else None)
    identity.require_scope(ADMIN)
    return ADMIN_KEY if identity.key_id is None else f"{DATABASE_KEY}{identity.key_id}"


def _without_details(error: ApiError) -> ApiError:
    # The same for a wrong key and one without the scope, so that the form tells nothing about keys.
    return AuthenticationError("This is no key with the scope admin.")


def provider_start(console: Console) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that leads to the identity provider."""

    async def endpoint(request: Request) -> Response:
        provider = console.provider
        if provider is None:
            return RedirectResponse(endpoints.SIGN_IN.path, status_code=303)
        try:
            return await provider.start(request, redirect_uri=_callback_url(console, request))
        except ApiError as error:
            return sign_in_page(console, request, error=error)

    return endpoint


def provider_callback(console: Console) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that the identity provider leads back to."""

    async def endpoint(request: Request) -> Response:
        provider = console.provider
        if provider is None:
            return RedirectResponse(endpoints.SIGN_IN.path, status_code=303)
        try:
            count_attempt(console, request)
            who = await provider.finish(request, redirect_uri=_callback_url(console, request))
        except ApiError as error:
            response = sign_in_page(console, request, error=error)
        else:
            response = begin(console, request, who)
        provider.forget(response, secure=is_https(request))
        return response

    return endpoint


def _callback_url(console: Console, request: Request) -> str:
    return f"{origin_of(request, console.url)}{endpoints.CALLBACK.path}"
