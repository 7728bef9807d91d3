"""Identity and permissions of a caller."""

from dataclasses import dataclass
from typing import Final

import msgspec

from serval.caller.budgets import Budgets
from serval.caller.limits import DEFAULT_LIMITS, KeyLimits, Limits
from serval.errors import ModelNotAllowedError, PermissionDeniedError

INFERENCE: Final = "inference"
# Permits grammars written by the client (`regex`, `ebnf`), beyond JSON schemas.
GRAMMAR: Final = "grammar"
ADMIN: Final = "admin"
# Prefix of the name of a caller with a token, so that it is never taken for an id of the key database.
OIDC_CALLER: Final = "oidc:"
# Prefix of the name of a team's account.
TEAM: Final = "team:"
# Requests of these keys are scheduled before others, or after them.
INTERACTIVE: Final = "interactive"
BULK: Final = "bulk"
SCOPES: Final = (INFERENCE, GRAMMAR, ADMIN, INTERACTIVE, BULK)


@dataclass(frozen=True)
class Team:
    """The team of a key: the account that the use of all its keys is counted under, and its limits."""

    subject: str
    name: str
    limits: Limits


@dataclass(frozen=True)
class Identity:
    """A caller whose key or token was accepted.

    `key_id` is the key's public id, or `oidc:` and the caller named by a token; None for an operator's key.
    """

    scopes: frozenset[str]
    key_id: str | None = None
    # None: all models.
    models: frozenset[str] | None = None
    limits: KeyLimits = DEFAULT_LIMITS
    budgets: Budgets = ()
    # None also for a team without limits.
    team: Team | None = None
    # Index among the operator's own keys.
    operator_index: int = 0

    @property
    def subject(self) -> str:
        """Name of the account that the caller's use is counted under."""
        return self.key_id or f"operator-{self.operator_index}"

    def require_scope(self, scope: str) -> None:
        """Raise `PermissionDeniedError` unless the key has the scope."""
        if scope not in self.scopes:
            raise PermissionDeniedError(
                f"This API key does not have the scope {scope!r}, which this request needs."
            )

    def may_use(self, model: str) -> bool:
        """True if the key may use this model."""
        return self.models is None or model in self.models

    def require_model(self, model: str) -> None:
        """Raise `ModelNotAllowedError` unless the key may use this model."""
        if not self.may_use(model):
            raise ModelNotAllowedError(f"This API key may not use the model {model!r}.", param="model")

    def to_json(self) -> str:
        """The identity as it is stored for work that is done later."""
        return msgspec.json.encode(self).decode()

    @staticmethod
    def from_json(stored: str) -> "Identity":
        """The inverse of `to_json`."""
        return _decoder.decode(stored)


_decoder: "Final[msgspec.json.Decoder[Identity]]" = msgspec.json.Decoder(Identity)
