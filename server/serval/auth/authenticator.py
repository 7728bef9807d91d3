"""Authentication by the configured means: the operator's keys, the database's, tokens, or none."""

from typing import TYPE_CHECKING

from serval.auth.keys import ApiKeys, bearer_key, looks_like_token
from serval.caller.identity import OIDC_CALLER, Identity
from serval.errors import AuthenticationError

if TYPE_CHECKING:
    # Their dependencies are loaded only where there is a database or an identity provider.
    from serval.auth.directory import KeyDirectory
    from serval.auth.tokens import TokenVerifier


class Authenticator:
    """Turns an Authorization header into an `Identity`."""

    def __init__(
        self,
        operator_keys: ApiKeys,
        directory: "KeyDirectory | None",
        tokens: "TokenVerifier | None" = None,
        *,
        scopes: frozenset[str],
        open_without_keys: bool,
    ) -> None:
        """Grant `scopes`, for all models, to the operator's keys.

        `open_without_keys`: with no key, database or identity provider, grant them to everyone.
        """
        self._directory = directory
        self._tokens = tokens
        self._scopes = scopes
        self.replace_keys(operator_keys)
        self._open = open_without_keys and not operator_keys.required and directory is None and tokens is None

    def replace_keys(self, operator_keys: ApiKeys) -> None:
        """Accept these operator's keys from now on, instead of the current ones."""
        self._operator_keys = operator_keys
        # At least one, for callers without a key where none is required.
        self._operator_identities = [
            Identity(scopes=self._scopes, operator_index=index)
            for index in range(max(1, operator_keys.count))
        ]

    async def identify(self, authorization: str | None) -> Identity:
        """The identity of the caller. Raises `AuthenticationError` or `AuthUnavailableError`."""
        if self._open:
            return self._operator_identities[0]
        key = bearer_key(authorization)
        index = self._operator_keys.index_of(key)
        if index is not None:
            return self._operator_identities[index]
        if self._tokens is not None and looks_like_token(key):
            return await self._tokens.identify(key)
        if self._directory is None:
            raise AuthenticationError(
                "Incorrect API key provided. Check the key, or ask the operator for one."
            )
        return self._directory.identify(key)

    def again(self, identity: Identity) -> Identity:
        """The present identity of a caller who was accepted before. Raises `AuthenticationError`.

        That of a caller with a token is as it was.
        """
        if not self.still_accepts(identity):
            raise AuthenticationError("The API key of this request has expired or was revoked meanwhile.")
        if identity.key_id is None:
            return self._operator_identities[identity.operator_index]
        if self._directory is None or identity.key_id.startswith(OIDC_CALLER):
            return identity
        return self._directory.identity_of(identity.key_id) or identity

    def still_accepts(self, identity: Identity) -> bool:
        """True if a caller who was accepted before would be accepted now.

        Tokens cannot be revoked; a request that began with a valid one may run to its end, as may a batch,
        while tokens are accepted at all.
        """
        if identity.key_id is None:
            return self._open or self._operator_keys.holds(identity.operator_index)
        if identity.key_id.startswith(OIDC_CALLER):
            return self._tokens is not None
        return self._directory is not None and self._directory.is_live(identity.key_id)
