"""Who calls, and what they may do."""

from dataclasses import dataclass
from typing import Final

from serval.caller.limits import DEFAULT_LIMITS, KeyLimits
from serval.errors import ModelNotAllowedError, PermissionDeniedError

INFERENCE: Final = "inference"
# May hold the model to grammars of its own (`regex`, `ebnf`), beyond JSON schemas.
GRAMMAR: Final = "grammar"
ADMIN: Final = "admin"
# Of keys whose requests go before others, or behind them.
INTERACTIVE: Final = "interactive"
BULK: Final = "bulk"
SCOPES: Final = (INFERENCE, GRAMMAR, ADMIN, INTERACTIVE, BULK)


@dataclass(frozen=True)
class Identity:
    """A caller whose key or token was accepted.

    `key_id` is the key's public part, or `oidc:` and the caller that a token names; None for the operator's
    own key.
    """

    scopes: frozenset[str]
    key_id: str | None = None
    # None: all.
    models: frozenset[str] | None = None
    limits: KeyLimits = DEFAULT_LIMITS
    # Which of the operator's own keys it is.
    operator_index: int = 0

    @property
    def subject(self) -> str:
        """Under which name the caller's use is counted."""
        return self.key_id or f"operator-{self.operator_index}"

    def require_scope(self, scope: str) -> None:
        """Raise `PermissionDeniedError` unless the key has the scope."""
        if scope not in self.scopes:
            raise PermissionDeniedError(
                f"This API key does not have the scope {scope!r}, which this request needs."
            )

    def may_use(self, model: str) -> bool:
        """Whether the key is for this model."""
        return self.models is None or model in self.models

    def require_model(self, model: str) -> None:
        """Raise `ModelNotAllowedError` unless the key is for this model."""
        if not self.may_use(model):
            raise ModelNotAllowedError(f"This API key may not use the model {model!r}.", param="model")
