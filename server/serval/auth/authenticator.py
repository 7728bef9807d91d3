"""Which of the ways to be let in are configured: the operator's own key, the database's keys, an identity
provider's tokens, or none."""

from typing import TYPE_CHECKING

from serval.auth.keys import ApiKeys, bearer_key, looks_like_token
from serval.caller.identity import Identity
from serval.errors import AuthenticationError

if TYPE_CHECKING:
    # What these need is loaded only where there is a database or an identity provider.
    from serval.auth.directory import KeyDirectory
    from serval.auth.tokens import TokenVerifier


class Authenticator:
    """Turns an Authorization header into an `Identity`."""

    def __init__(
        self,
        fixed: ApiKeys,
        directory: "KeyDirectory | None",
        tokens: "TokenVerifier | None" = None,
        *,
        scopes: frozenset[str],
        open_without_keys: bool,
    ) -> None:
        """`fixed` keys have `scopes`, for all models. `open_without_keys`: with nothing configured, so has
        everyone; else nobody."""
        self._directory = directory
        self._tokens = tokens
        self._scopes = scopes
        self.replace_keys(fixed)
        self._open = open_without_keys and not fixed.required and directory is None and tokens is None

    def replace_keys(self, fixed: ApiKeys) -> None:
        """Accept these from now on, in place of the fixed keys so far."""
        self._fixed = fixed
        # At least one: who comes without a key where none is needed.
        self._operators = [Identity(scopes=self._scopes, place=place) for place in range(max(1, fixed.count))]

    async def identify(self, authorization: str | None) -> Identity:
        """Whose header it is. Raises `AuthenticationError` or `AuthUnavailableError`."""
        if self._open:
            return self._operators[0]
        key = bearer_key(authorization)
        place = self._fixed.place_of(key)
        if place is not None:
            return self._operators[place]
        if self._tokens is not None and looks_like_token(key):
            return await self._tokens.identify(key)
        if self._directory is None:
            raise AuthenticationError(
                "Incorrect API key provided. Check the key, or ask the operator for one."
            )
        return self._directory.identify(key)
