"""An identity provider at which people sign in: authorization codes with PKCE, and ID tokens for them."""

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from serval_testkit.issuer import jwk, rsa_key, token

CLIENT_ID = "console-client"
CLIENT_SECRET = "client-canary-9b1d"


@dataclass
class SignInProvider:
    """The provider; `claims` replace those of its ID tokens. It refuses a second use of a code."""

    url: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    document: dict[str, Any] = field(default_factory=dict)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return the settings of a gateway whose console signs in here."""
        return {
            "oidc_issuer": self.url,
            "oidc_audience": "serval",
            "oidc_jwks": f"{self.url}/jwks",
            "console_oidc_client_id": CLIENT_ID,
            "console_oidc_client_secret": CLIENT_SECRET,
            **changes,
        }

    def authorize(self, location: str) -> dict[str, str]:
        """Follow `location` as a browser does; return the query that the provider sends back."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        assert location.startswith(f"{self.url}/authorize?")
        assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
        code = secrets.token_urlsafe(8)
        self._codes[code] = asked
        return {"code": code, "state": asked["state"], "iss": self.url}

    @asynccontextmanager
    async def running(self) -> AsyncIterator["SignInProvider"]:
        """Serve on a free port of the loopback interface."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/jwks", self._jwks),
                web.get("/.well-known/openid-configuration", self._configuration),
                web.post("/token", self._token),
            ]
        )
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _jwks(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": [jwk("k1", rsa_key("k1"))]})

    async def _configuration(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                **self.document,
            }
        )

    async def _token(self, request: web.Request) -> web.Response:
        sent = await request.post()
        asked = self._codes.pop(str(sent.get("code")), None)
        verifier = str(sent.get("code_verifier", "")).encode()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier).digest()).decode().rstrip("=")
        client = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if (
            asked is None
            or request.headers.get("authorization") != f"Basic {client}"
            or challenge != asked["code_challenge"]
            or sent.get("redirect_uri") != asked["redirect_uri"]
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        claims = {
            "iss": self.url, "aud": CLIENT_ID, "scope": "openid admin", "nonce": asked["nonce"], **self.claims
        }  # fmt: skip
        return web.json_response({"access_token": "unused", "id_token": token(**claims)})
