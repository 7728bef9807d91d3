"""Tokens of an identity provider (JWT, as OpenID Connect issues them), an alternative to API keys."""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt

from serval.auth.issuer_keys import IssuerKeys
from serval.caller.identity import ADMIN, OIDC_CALLER, SCOPES, Identity
from serval.errors import AuthenticationError

_MAX_TOKEN_CHARACTERS: Final = 16_384
_MAX_REMEMBERED: Final = 1024
_CALLER = re.compile(r"[\x21-\x7e]{1,128}")

# Messages for invalid tokens, from the special to the general: the first that matches is used.
_PROBLEMS: Final[tuple[tuple[type[jwt.PyJWTError], str], ...]] = (
    (jwt.ExpiredSignatureError, "The token has expired. Get a new one."),
    (
        jwt.ImmatureSignatureError,
        "The token is not valid yet. Check the clocks of this server and its issuer.",
    ),
    (jwt.InvalidAudienceError, "The token is for another audience. Ask the issuer for one for this server."),
    (jwt.InvalidIssuerError, "The token is of another issuer than this server trusts."),
    (jwt.MissingRequiredClaimError, "The token lacks a claim; it needs iss, aud, exp and the caller's name."),
    (jwt.InvalidAlgorithmError, "The token is signed with an algorithm that this server does not accept."),
    (jwt.InvalidSignatureError, "The token's signature is wrong."),
)


@dataclass(frozen=True)
class TokenRules:
    """Requirements on tokens and the meaning of their claims; see the settings `oidc_*`."""

    issuer: str
    audience: str
    algorithms: frozenset[str]
    leeway_s: float
    caller_claim: str
    scope_claim: str
    scope_prefix: str
    models_claim: str | None


class TokenVerifier:
    """Turns a token into an `Identity`. Verified tokens are remembered by hash until they expire."""

    def __init__(self, keys: IssuerKeys, rules: TokenRules) -> None:
        self.keys = keys
        self._rules = rules
        # Identity, expiry (Unix time), and the generation of keys that verified it.
        self._remembered: OrderedDict[bytes, tuple[Identity, float, int]] = OrderedDict()

    async def identify(self, token: str) -> Identity:
        """The identity of a token. Raises `AuthenticationError` or `AuthUnavailableError`."""
        if len(token) > _MAX_TOKEN_CHARACTERS:
            raise AuthenticationError(f"The token has more than {_MAX_TOKEN_CHARACTERS} characters.")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._remembered.get(digest)
        if known is not None and time.time() < known[1] and known[2] == self.keys.generation:
            return known[0]
        claims = await self.verified_claims(token, audience=self._rules.audience)
        identity = self._identity(claims)
        self._remember(digest, identity, float(claims["exp"]) + self._rules.leeway_s)
        return identity

    async def verified_claims(self, token: str, *, audience: str) -> dict[str, Any]:
        """The claims of a token for this audience. Raises `AuthenticationError` or `AuthUnavailableError`."""
        rules = self._rules
        try:
            header = jwt.get_unverified_header(token)
            # The header only selects from the issuer's list: keys and key URLs in the token itself (jwk, jku,
            # x5u) are ignored.
            key = await self.keys.find(header.get("kid"))
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=sorted(key.algorithms & rules.algorithms),
                audience=audience,
                issuer=rules.issuer,
                leeway=rules.leeway_s,
                options={"require": ["exp", "iss", "aud", rules.caller_claim]},
            )
            # An expiry of 10^400 is an integer beyond any float.
            float(claims["exp"])
        except (jwt.PyJWTError, UnicodeError, OverflowError) as error:
            messages = (text for kind, text in _PROBLEMS if isinstance(error, kind))
            raise AuthenticationError(next(messages, "The token cannot be read. Get a new one.")) from None
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        caller, given = self.caller_and_scopes(claims)
        claim = self._rules.models_claim
        models = None if claim is None else frozenset(_words(claims.get(claim)))
        # The admin API accepts keys only.
        return Identity(scopes=given - {ADMIN}, key_id=OIDC_CALLER + caller, models=models)

    def caller_and_scopes(self, claims: Mapping[str, Any]) -> tuple[str, frozenset[str]]:
        """The caller's name and all scopes that verified claims give. Raises `AuthenticationError`."""
        rules = self._rules
        caller = claims[rules.caller_claim]
        if not isinstance(caller, str) or not _CALLER.fullmatch(caller):
            raise AuthenticationError(
                f"The token's claim {rules.caller_claim!r} must be 1 to 128 printable ASCII characters."
            )
        names = _words(claims.get(rules.scope_claim))
        given = {
            name.removeprefix(rules.scope_prefix) for name in names if name.startswith(rules.scope_prefix)
        }
        return caller, frozenset(given) & frozenset(SCOPES)

    def _remember(self, digest: bytes, identity: Identity, until: float) -> None:
        self._remembered[digest] = (identity, until, self.keys.generation)
        while len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def _words(claim: Any) -> list[str]:
    """The names in a claim: a list, or a string separated by spaces; anything else has none."""
    words = claim.split() if isinstance(claim, str) else claim
    return [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
