"""Which of the ways to be let in is configured: the operator's own key, the database's keys, or none."""

from typing import TYPE_CHECKING

from serval.auth.identity import Identity
from serval.auth.keys import ApiKeys, bearer_key
from serval.errors import AuthenticationError

if TYPE_CHECKING:
    # The database's packages are loaded only where there is a database.
    from serval.auth.directory import KeyDirectory


class Authenticator:
    """Turns an Authorization header into an `Identity`."""

    def __init__(
        self, fixed: ApiKeys, directory: "KeyDirectory | None", *, scope: str, open_without_keys: bool
    ) -> None:
        """`fixed` keys have `scope`, for all models. `open_without_keys`: with nothing configured, so has
        everyone; else nobody."""
        self._fixed = fixed
        self._directory = directory
        self._operator = Identity(scopes=frozenset({scope}))
        self._open = open_without_keys and not fixed.required and directory is None

    def identify(self, authorization: str | None) -> Identity:
        """Whose header it is. Raises `AuthenticationError` or `AuthUnavailableError`."""
        if self._open:
            return self._operator
        key = bearer_key(authorization)
        if self._fixed.accepts(key):
            return self._operator
        if self._directory is None:
            raise AuthenticationError(
                "Incorrect API key provided. Check the key, or ask the operator for one."
            )
        return self._directory.identify(key)
