"""The console's application, and its place beside the admin API on one port."""

import hashlib
import hmac
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serval.api.context import ApiContext
from serval.api.edge import RequestEdge
from serval.api.http import record_of
from serval.auth.authenticator import Authenticator
from serval.auth.directory import KeyDirectory
from serval.console import batches, endpoints, keys, now, playground, sign_in, teams, usage
from serval.console.assets import asset
from serval.console.attempts import SignInAttempts
from serval.console.guard import for_form, for_page
from serval.console.pages import page, with_headers
from serval.console.parts import Console
from serval.console.samples import Samples
from serval.console.sessions import DATABASE_KEY, Sessions
from serval.console.signing import Signer
from serval.engine.protocol import ManagedEngine
from serval.errors import ApiError, NotFoundError, error_object
from serval.settings import Settings
from serval.store.usage import UsageTable

if TYPE_CHECKING:
    from serval.auth.tokens import TokenVerifier
    from serval.console.identity_provider import IdentityProvider


def create_console(
    context: ApiContext,
    *,
    api: ASGIApp,
    engine: ManagedEngine,
    directory: KeyDirectory,
    administrators: Authenticator,
    tokens: "TokenVerifier | None",
) -> ASGIApp:
    """Create the application."""
    settings = context.settings
    signer = Signer(_secret(settings, directory))
    console = Console(
        context=context,
        api=api,
        engine=engine,
        directory=directory,
        administrators=administrators,
        usage=UsageTable(directory.store.engine),
        signer=signer,
        sessions=Sessions(
            signer,
            lifetime_s=settings.console_session_s,
            is_accepted=lambda who: _is_accepted(who, directory),
        ),
        attempts=SignInAttempts(),
        samples=Samples(),
        provider=_provider(settings, signer, tokens),
    )
    app = Starlette(
        routes=_routes(console),
        exception_handlers={ApiError: _error_page, HTTPException: _http_error_page},
    )
    edge = RequestEdge(
        app,
        hot={},
        endpoints=endpoints.CONSOLE,
        # Never asked, as no endpoint has a scope.
        authenticator=administrators,
        metrics=context.metrics,
    )
    passing_on = with_headers(playground.passing_on(console))
    pages = with_headers(edge)

    async def console_app(scope: Scope, receive: Receive, send: Send) -> None:
        passed_on = scope["path"] in playground.PASSED_ON
        await (passing_on if passed_on else pages)(scope, receive, send)

    return console_app


def beside_console(admin: ASGIApp, console: ASGIApp) -> ASGIApp:
    """Return the application of the admin port, whose paths below `/console` are the console's."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        is_console = path == endpoints.PREFIX or path.startswith(f"{endpoints.PREFIX}/")
        await (console if scope["type"] == "http" and is_console else admin)(scope, receive, send)

    return app


def _secret(settings: Settings, directory: KeyDirectory) -> bytes:
    """Return the secret of the sessions: the same for all gateways with the same database and admin key.

    Another admin key ends all sessions. Where there is none, the code of `serve --console` is used instead,
    so that the database alone does not suffice to forge a session.
    """
    known = settings.admin_key or settings.console_code
    text = "" if known is None else known.get_secret_value()
    return hmac.digest(directory.store.derived_secret("console"), text.encode(), hashlib.sha256)


def _is_accepted(who: str, directory: KeyDirectory) -> bool:
    """Return False once the database's key that the session began with is revoked or has expired."""
    return not who.startswith(DATABASE_KEY) or directory.is_live(who.removeprefix(DATABASE_KEY))


def _provider(
    settings: Settings, signer: Signer, tokens: "TokenVerifier | None"
) -> "IdentityProvider | None":
    if settings.console_oidc_client_id is None:
        return None
    # `open_tokens` has checked that they are set.
    assert tokens is not None
    assert settings.oidc_issuer is not None
    # PyJWT is loaded only where there is an identity provider.
    from serval.console.identity_provider import IdentityProvider

    secret = settings.console_oidc_client_secret
    return IdentityProvider(
        tokens,
        signer,
        issuer=settings.oidc_issuer,
        client_id=settings.console_oidc_client_id,
        client_secret=None if secret is None else secret.get_secret_value(),
    )


def _routes(console: Console) -> list[Route]:
    pages = {
        endpoints.NOW: now.now_page,
        endpoints.FIGURES: now.figures_part,
        endpoints.KEYS: keys.keys_page,
        endpoints.KEY: keys.key_page,
        endpoints.TEAMS: teams.teams_page,
        endpoints.TEAM: teams.team_page,
        endpoints.BATCHES: batches.batches_page,
        endpoints.USAGE: usage.usage_page,
        endpoints.USAGE_CSV: usage.usage_csv,
        endpoints.PLAYGROUND: playground.playground_page,
    }
    forms = {
        endpoints.SIGN_OUT: sign_in.sign_out,
        endpoints.KEYS: keys.create,
        endpoints.KEY_LIMITS: keys.change_limits,
        endpoints.KEY_ROTATE: keys.rotate,
        endpoints.KEY_REVOKE: keys.revoke,
        endpoints.TEAMS: teams.create,
        endpoints.TEAM: teams.change,
        endpoints.TEAM_DELETE: teams.delete,
        endpoints.BATCH_CANCEL: batches.cancel,
    }
    # Those who are not signed in, and scripts, which check the session themselves.
    others = {
        endpoints.SIGN_IN: sign_in.sign_in(console),
        endpoints.ENTER: sign_in.enter(console),
        endpoints.PROVIDER: sign_in.provider_start(console),
        endpoints.CALLBACK: sign_in.provider_callback(console),
        endpoints.TOKENS: playground.tokens_of(console),
        endpoints.ASSET: asset,
    }
    return [
        *(Route(at.path, for_page(console, handler), methods=["GET"]) for at, handler in pages.items()),
        *(Route(at.path, for_form(console, handler), methods=["POST"]) for at, handler in forms.items()),
        *(Route(at.path, endpoint, methods=list(at.methods)) for at, endpoint in others.items()),
    ]


async def _error_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    record_of(request.scope).error_code = error.code
    if request.url.path == endpoints.TOKENS.path:
        return JSONResponse(error_object(error), status_code=error.status)
    if error.status == 401:
        return RedirectResponse(endpoints.SIGN_IN.path, status_code=303)
    return page(request, "error.html", error=error, home=endpoints.NOW.path)


async def _http_error_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    problem = NotFoundError("There is no such page.")
    response = await _error_page(request, problem)
    response.status_code = error.status_code
    return response
