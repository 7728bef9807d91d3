"""Sign-in at the identity provider: OpenID Connect's authorization code flow with PKCE (RFC 7636)."""

import base64
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

import aiohttp
import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from serval.auth.tokens import TokenVerifier
from serval.caller.identity import ADMIN, OIDC_CALLER
from serval.console.forms import is_https
from serval.console.sessions import cookie_options
from serval.console.signing import Signer
from serval.errors import AuthenticationError, AuthUnavailableError, PermissionDeniedError

logger = logging.getLogger(__name__)

COOKIE: Final = "serval_console_sign_in"
_PURPOSE: Final = "sign-in"
_MOST_S: Final = 600
_TIMEOUT_S: Final = 10.0
_MOST_ANSWER_BYTES: Final = 1 << 20
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_FAILED: Final = "The sign-in at the identity provider failed. Try again."


class _Started(Struct, frozen=True):
    """A sign-in that has begun, in a signed cookie of the browser that began it."""

    state: str
    nonce: str
    verifier: str
    until: int


class IdentityProvider:
    """The provider whose tokens the inference API accepts too, with this server as a client of it."""

    def __init__(
        self,
        tokens: TokenVerifier,
        signer: Signer,
        *,
        issuer: str,
        client_id: str,
        client_secret: str | None,
    ) -> None:
        """Its addresses are read from its configuration document at the first sign-in."""
        self._tokens = tokens
        self._signer = signer
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._addresses: Mapping[str, str] | None = None

    async def start(self, request: Request, *, redirect_uri: str) -> Response:
        """Lead the browser to the provider. Raises `AuthUnavailableError`."""
        addresses = await self._found_addresses()
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        started = _Started(
            secrets.token_urlsafe(24), secrets.token_urlsafe(24), verifier, int(time.time()) + _MOST_S
        )
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": redirect_uri,
            "scope": "openid",
            "state": started.state,
            "nonce": started.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        address = addresses["authorization_endpoint"]
        response = RedirectResponse(
            f"{address}{'&' if '?' in address else '?'}{urlencode(query)}", status_code=303
        )
        content = self._signer.sign(_PURPOSE, msgspec.json.encode(started))
        # Lax: the provider's redirect, from another site, brings it back.
        options = cookie_options(secure=is_https(request), samesite="lax")
        response.set_cookie(COOKIE, content, max_age=_MOST_S, **options)
        return response

    @staticmethod
    def forget(response: Response, *, secure: bool) -> None:
        """Have the browser forget the sign-in, which can be finished once."""
        options = cookie_options(secure=secure, samesite="lax")
        response.set_cookie(COOKIE, "", max_age=0, **options)

    async def finish(self, request: Request, *, redirect_uri: str) -> str:
        """Return who has signed in, `oidc:` and their name.

        Raises `AuthenticationError`, `PermissionDeniedError` or `AuthUnavailableError`.
        """
        started = self._started(request)
        query = request.query_params
        if not hmac.compare_digest(started.state.encode(), query.get("state", "").encode()):
            raise AuthenticationError(_FAILED)
        # RFC 9207: an answer of another provider must not be taken for this one's.
        if query.get("iss", self._issuer) != self._issuer or not query.get("code"):
            raise AuthenticationError(_FAILED)
        id_token = await self._exchange(query["code"], started.verifier, redirect_uri)
        claims = await self._tokens.verified_claims(id_token, audience=self._client_id)
        nonce = claims.get("nonce")
        if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), started.nonce.encode()):
            raise AuthenticationError(_FAILED)
        caller, scopes = self._tokens.caller_and_scopes(claims)
        if ADMIN not in scopes:
            raise PermissionDeniedError(f"{caller} may not use the console: the scope admin is missing.")
        return f"{OIDC_CALLER}{caller}"

    def _started(self, request: Request) -> _Started:
        content = self._signer.read(_PURPOSE, request.cookies.get(COOKIE))
        try:
            started = msgspec.json.decode(content or b"", type=_Started)
        except msgspec.DecodeError:
            # Not signed, or by another release.
            raise AuthenticationError(_FAILED) from None
        if started.until <= time.time():
            raise AuthenticationError(_FAILED)
        return started

    async def _exchange(self, code: str, verifier: str, redirect_uri: str) -> str:
        """Return the ID token that the provider gives for the code."""
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        if self._client_secret is None:
            fields["client_id"] = self._client_id
        else:
            # RFC 6749, 2.3.1: both are encoded as in a form.
            pair = f"{quote_plus(self._client_id)}:{quote_plus(self._client_secret)}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        address = (await self._found_addresses())["token_endpoint"]
        answer = await _asked("POST", address, data=fields, headers=headers)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise AuthenticationError(_FAILED)
        return token

    async def _found_addresses(self) -> Mapping[str, str]:
        if self._addresses is None:
            document = await _asked("GET", f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            if document.get("issuer") != self._issuer:
                raise AuthUnavailableError("The identity provider's configuration names another issuer.")
            names = ("authorization_endpoint", "token_endpoint")
            self._addresses = {name: _safe_address(document.get(name)) for name in names}
        return self._addresses


def _safe_address(address: object) -> str:
    url = urlsplit(address if isinstance(address, str) else "")
    if url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK):
        return url.geturl()
    raise AuthUnavailableError("The identity provider's configuration names no https address.")


async def _asked(method: str, url: str, **options: Any) -> dict[str, Any]:
    """Return the provider's JSON answer. Raises `AuthenticationError` or `AuthUnavailableError`."""
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, _safe_address(url), allow_redirects=False, **options) as response,
        ):
            body = await response.content.read(_MOST_ANSWER_BYTES)
            while len(body) < _MOST_ANSWER_BYTES and not response.content.at_eof():
                body += await response.content.read(_MOST_ANSWER_BYTES)
            status = response.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        logger.warning("the identity provider cannot be reached: %s", type(error).__name__)
        raise AuthUnavailableError("The identity provider cannot be reached at the moment.") from None
    if 400 <= status < 500:
        raise AuthenticationError(_FAILED)
    try:
        answer = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        answer = {}
    if status != 200 or not answer:
        raise AuthUnavailableError("The identity provider's answer cannot be used.")
    return answer
