"""JSON Web Key Sets (RFC 7517): the public keys of a token issuer."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt import PyJWK, PyJWTError
from msgspec import Struct

logger = logging.getLogger(__name__)

# Algorithms that a key may verify, by type and curve. A shared secret ("oct") is not among them: anyone who
# can verify such a token can also make one.
_ALGORITHMS: Final[Mapping[tuple[str, str | None], frozenset[str]]] = {
    ("RSA", None): frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}
ALGORITHMS: Final = frozenset[str]().union(*_ALGORITHMS.values())

_MIN_RSA_BITS: Final = 2048
_MAX_KEYS: Final = 100


class JwksError(Exception):
    """The document cannot be used; the message gives the reason."""


@dataclass(frozen=True)
class IssuerKey:
    """A public key and the algorithms it may verify."""

    key: Any
    algorithms: frozenset[str]


class _Jwk(Struct):
    kty: str
    kid: str | None = None
    crv: str | None = None
    use: str = "sig"
    key_ops: list[str] | None = None
    alg: str | None = None
    # The private part, which must not be published.
    d: Any = None


class _Jwks(Struct):
    keys: list[dict[str, Any]]


def read_jwks(document: bytes) -> dict[str | None, IssuerKey]:
    """The keys that can verify a signature, by key id.

    Others are left out: keys for encryption, shared secrets, private keys, short RSA keys, unknown types.
    Raises `JwksError` if none is left, or if the document is not a JWKS.
    """
    try:
        entries = msgspec.json.decode(document, type=_Jwks).keys
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise JwksError("it is not a JSON object with a list of keys") from None
    if len(entries) > _MAX_KEYS:
        raise JwksError(f"it lists {len(entries)} keys; at most {_MAX_KEYS} are read")
    keys: dict[str | None, IssuerKey] = {}
    for entry in entries:
        try:
            described = msgspec.convert(entry, _Jwk)
        except msgspec.ValidationError:
            continue
        algorithms = _usable_for(described)
        key = _public_key(entry, algorithms) if algorithms else None
        if key is not None:
            keys.setdefault(described.kid, IssuerKey(key, algorithms))
    if not keys:
        raise JwksError("it holds no public key that can verify a signature")
    return keys


def _usable_for(jwk: _Jwk) -> frozenset[str]:
    if jwk.use != "sig" or (jwk.key_ops is not None and "verify" not in jwk.key_ops):
        return frozenset()
    if jwk.d is not None:
        logger.warning("the issuer's JWKS shows a private key; it is not used")
        return frozenset()
    algorithms = _ALGORITHMS.get((jwk.kty, jwk.crv), frozenset())
    return algorithms if jwk.alg is None else algorithms & {jwk.alg}


def _public_key(entry: dict[str, Any], algorithms: frozenset[str]) -> Any:
    try:
        key = PyJWK(entry, algorithm=min(algorithms)).key
    except PyJWTError:
        return None
    short = isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA_BITS
    return None if short else key
