"""A small identity provider: signs tokens, and serves its public keys from a real HTTP server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://login.example"
AUDIENCE = "serval"


@lru_cache
def rsa_key(name: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """Return a private key, always the same for a name, because creating one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def public_pem(key: rsa.RSAPrivateKey) -> bytes:
    """Return the public half of the key in PEM, as known to an attacker."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk(key_id: str | None, key: Any, **fields: Any) -> dict[str, Any]:
    """Return the public half of `key` as an entry of a JWKS."""
    if isinstance(key, rsa.RSAPrivateKey):
        entry = json.loads(RSAAlgorithm.to_jwk(key.public_key()))
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        entry = json.loads(ECAlgorithm.to_jwk(key.public_key()))
    else:
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        entry = json.loads(OKPAlgorithm.to_jwk(key.public_key()))
    entry.pop("key_ops", None)
    return entry | ({} if key_id is None else {"kid": key_id}) | fields


class Issuer:
    """The provider. `keys` are listed in its JWKS; `asked` counts how often that was fetched."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [jwk("k1", rsa_key("k1"))]
        self.status = 200
        self.asked = 0
        self._asked = asyncio.Event()
        # If cleared, requests wait for their answer.
        self.answering = asyncio.Event()
        self.answering.set()
        self.url = ""

    async def asked_again(self) -> None:
        """Wait until the keys are fetched again."""
        self._asked.clear()
        await self._asked.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Issuer"]:
        """Serve on a free port of the loopback interface."""
        app = web.Application()
        app.add_routes([web.get("/jwks", self._jwks), web.get("/moved", self._moved)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/jwks"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _jwks(self, _: web.Request) -> web.Response:
        self.asked += 1
        self._asked.set()
        await self.answering.wait()
        return web.json_response({"keys": self.keys}, status=self.status)

    async def _moved(self, _: web.Request) -> web.Response:
        raise web.HTTPFound("/jwks")

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return the settings of a gateway that trusts this issuer."""
        return {"oidc_issuer": ISSUER, "oidc_audience": AUDIENCE, "oidc_jwks": self.url, **changes}


def token(
    key: Any = None,
    *,
    key_id: str | None = "k1",
    algorithm: str = "RS256",
    header: dict[str, Any] | None = None,
    expires_in_s: float = 300,
    **claims: Any,
) -> str:
    """Return a signed token that is valid unless the arguments spoil it; a claim of None is left out."""
    payload = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "scope": "openid inference",
        "exp": time.time() + expires_in_s,
        **claims,
    }
    return jwt.encode(
        {name: value for name, value in payload.items() if value is not None},
        rsa_key("k1") if key is None else key,
        algorithm=algorithm,
        headers={**({} if key_id is None else {"kid": key_id}), **(header or {})},
    )
