"""Factories of the key directory, the token verifier and the authenticators that the settings describe."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from serval.auth.authenticator import Authenticator
from serval.auth.keys import ApiKeys
from serval.caller.identity import ADMIN, GRAMMAR, INFERENCE
from serval.errors import SettingsError
from serval.settings import Settings
from serval.store.factory import open_store

if TYPE_CHECKING:
    from serval.auth.directory import KeyDirectory
    from serval.auth.issuer_keys import IssuerKeys
    from serval.auth.tokens import TokenVerifier

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def open_directory(settings: Settings) -> "KeyDirectory | None":
    """Read the database's keys; None if there is no database. Raises `SettingsError`."""
    if settings.key_database is None:
        if settings.admin_port is not None:
            raise SettingsError("SERVAL_ADMIN_PORT needs a key database; set SERVAL_KEY_DATABASE too")
        return None
    store = open_store(settings)
    from serval.auth.directory import KeyDirectory

    return KeyDirectory(store, poll_s=settings.key_poll_s, max_stale_s=settings.key_max_stale_s)


def open_tokens(settings: Settings) -> "TokenVerifier | None":
    """The verifier of an identity provider's tokens; None if none is set. Raises `SettingsError`."""
    if settings.oidc_issuer is None:
        if settings.console_oidc_client_id is not None:
            raise SettingsError("SERVAL_CONSOLE_OIDC_CLIENT_ID needs SERVAL_OIDC_ISSUER too")
        return None
    if settings.oidc_audience is None or settings.oidc_jwks is None:
        raise SettingsError("SERVAL_OIDC_ISSUER needs SERVAL_OIDC_AUDIENCE and SERVAL_OIDC_JWKS too")
    if importlib.util.find_spec("jwt") is None:
        raise SettingsError("SERVAL_OIDC_ISSUER needs PyJWT; install it with: pip install 'serval-llm[oidc]'")
    from serval.auth.jwks import ALGORITHMS
    from serval.auth.tokens import TokenRules, TokenVerifier

    algorithms = frozenset(settings.oidc_algorithms.replace(",", " ").split())
    if not algorithms or not algorithms <= ALGORITHMS:
        raise SettingsError(
            f"SERVAL_OIDC_ALGORITHMS is {settings.oidc_algorithms!r}; choose from"
            f" {', '.join(sorted(ALGORITHMS))}"
        )
    rules = TokenRules(
        issuer=settings.oidc_issuer,
        audience=settings.oidc_audience,
        algorithms=algorithms,
        leeway_s=settings.oidc_leeway_s,
        caller_claim=settings.oidc_caller_claim,
        scope_claim=settings.oidc_scope_claim,
        scope_prefix=settings.oidc_scope_prefix,
        models_claim=settings.oidc_models_claim,
    )
    return TokenVerifier(_issuer_keys(settings.oidc_jwks, settings), rules)


def _issuer_keys(source: str, settings: Settings) -> "IssuerKeys":
    from serval.auth.issuer_keys import IssuerKeys
    from serval.auth.jwks import JwksError

    url = urlsplit(source)
    if url.scheme not in ("http", "https"):
        path = Path(source)
        keys = IssuerKeys(path, refresh_s=settings.oidc_refresh_s, max_stale_s=settings.oidc_max_stale_s)
        try:
            keys.load(path.read_bytes())
        except (OSError, JwksError) as error:
            raise SettingsError(f"cannot use the JWKS file {source!r} (SERVAL_OIDC_JWKS): {error}") from error
        return keys
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        raise SettingsError(
            f"SERVAL_OIDC_JWKS is {source!r}: over plain HTTP anyone on the way could put in a key of theirs;"
            " use https, or a file"
        )
    return IssuerKeys(source, refresh_s=settings.oidc_refresh_s, max_stale_s=settings.oidc_max_stale_s)


def inference_authenticator(
    settings: Settings,
    keys: Iterable[str],
    directory: "KeyDirectory | None",
    tokens: "TokenVerifier | None" = None,
) -> Authenticator:
    """For the inference API: the operator's `keys`, the database's, and tokens; open if there are none."""
    scopes = frozenset({INFERENCE, GRAMMAR} if settings.operator_grammars else {INFERENCE})
    return Authenticator(ApiKeys(keys), directory, tokens, scopes=scopes, open_without_keys=True)


def admin_authenticator(settings: Settings, directory: "KeyDirectory | None") -> Authenticator:
    """For the admin API: never open."""
    keys = [] if settings.admin_key is None else [settings.admin_key.get_secret_value().strip()]
    if keys == [""]:
        raise SettingsError("SERVAL_ADMIN_KEY is set but empty; give it a key or unset it")
    return Authenticator(ApiKeys(keys), directory, scopes=frozenset({ADMIN}), open_without_keys=False)
