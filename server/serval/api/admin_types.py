"""Requests and answers of the admin API."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from serval.caller.budgets import MAX_TOKENS, Budget, Period, Unit, amount_of
from serval.caller.identity import INFERENCE, SCOPES
from serval.caller.limits import LIMIT_NAMES, MAX_LIMIT, limit_of
from serval.wire.answers import Answer, UnixTime

# No white space: lists are stored as words separated by spaces.
Word = Annotated[str, Field(pattern=r"^\S{1,200}$")]
ScopeName = Annotated[str, Field(json_schema_extra={"enum": list(SCOPES)})]
Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)] | Literal["unlimited", "default"]
Seconds = Annotated[int, Field(ge=0, le=10**10)]


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


# For fields whose omission means something else than their default.
_ABSENT: Final[Any] = Field(default="default", json_schema_extra=_without_default)


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class LimitChanges(_Body):
    """Limits to set. An omitted limit keeps its value; that of a new key is the default."""

    requests_per_minute: Limit = _ABSENT
    tokens_per_minute: Limit = _ABSENT
    concurrent_requests: Limit = _ABSENT
    tokens_per_day: Limit = _ABSENT

    def given(self) -> dict[str, int | None]:
        """Return the limits to set, in the form that is stored."""
        return {name: limit_of(getattr(self, name)) for name in LIMIT_NAMES if name in self.model_fields_set}


TeamId = Annotated[str, Field(max_length=100)]
Amount = (
    Annotated[int, Field(ge=1, le=MAX_TOKENS)] | Annotated[str, Field(pattern=r"^[0-9]{1,7}(\.[0-9]{1,9})?$")]
)


class GivenBudget(_Body):
    """Budget of a day, week (from Monday) or month of UTC.

    Requests beyond `hard` are refused, and use beyond `soft` is reported; null: no such limit. Tokens are
    whole numbers, a cost is a decimal in a string such as "250.00", in the currency of the prices.
    """

    unit: Unit
    period: Period
    hard: Amount | None = None
    soft: Amount | None = None

    def budget(self) -> Budget:
        """Return the budget as it is counted. Raises `ValueError`."""
        hard, soft = (None if each is None else amount_of(self.unit, each) for each in (self.hard, self.soft))
        return Budget(self.unit, self.period, hard, soft)


class UpdateKey(_Body):
    """Changes to a key. `budgets` replace all that it has; with `team` null it belongs to none."""

    limits: LimitChanges = Field(default_factory=LimitChanges)
    team: Annotated[TeamId | None, Field(min_length=1)] = None
    budgets: Annotated[list[GivenBudget], Field(max_length=6)] = Field(default_factory=list)


class CreateKey(_Body):
    """Key to create. With `models` null it is for all models, with `expires_in_s` null it never expires."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    scopes: Annotated[list[ScopeName], Field(min_length=1)] = [INFERENCE]
    models: list[Word] | None = None
    expires_in_s: Seconds | None = None
    limits: LimitChanges = Field(default_factory=LimitChanges)
    team: Annotated[TeamId | None, Field(min_length=1)] = None
    budgets: Annotated[list[GivenBudget], Field(max_length=6)] = Field(default_factory=list)


class CreateTeam(_Body):
    """Team to create. Its limits are those of all its keys together; `default` is `unlimited` here."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    limits: LimitChanges = Field(default_factory=LimitChanges)
    budgets: Annotated[list[GivenBudget], Field(max_length=6)] = Field(default_factory=list)


class UpdateTeam(_Body):
    """Changes to a team. What is omitted stays; `budgets` replace all that it has."""

    name: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    limits: LimitChanges = Field(default_factory=LimitChanges)
    budgets: Annotated[list[GivenBudget] | None, Field(max_length=6)] = None


class RotateKey(_Body):
    """Seconds for which the old key is still accepted."""

    grace_s: Seconds = 0


class Limits(Answer):
    """Limits of a key; `default` is the limit of the settings."""

    requests_per_minute: Limit
    tokens_per_minute: Limit
    concurrent_requests: Limit
    tokens_per_day: Limit


class ShownBudget(Answer):
    """A budget; null: no such limit. A cost is a decimal in a string."""

    unit: Unit
    period: Period
    hard: int | str | None
    soft: int | str | None


class Team(Answer):
    """A team of keys."""

    id: str
    name: str
    created_at: UnixTime
    limits: Limits
    budgets: list[ShownBudget]


class TeamList(Answer):
    """All teams, in order of creation."""

    object: Literal["list"]
    data: list[Team]


class Key(Answer):
    """A key, without its secret. Times are Unix time in seconds; `models` null means all models."""

    id: str
    name: str
    scopes: list[str]
    models: list[str] | None
    created_at: UnixTime
    expires_at: UnixTime | None
    revoked_at: UnixTime | None
    limits: Limits
    # Id of its team.
    team: str | None
    budgets: list[ShownBudget]


class NewKey(Key):
    """A key with its secret, which is shown this once."""

    key: str


class KeyList(Answer):
    """All keys, in order of creation."""

    object: Literal["list"]
    data: list[Key]


class DrainEngine(_Body):
    """With `force`, the last ready engine is drained too, and all requests are refused."""

    force: bool = False


class WeighEngine(_Body):
    """A share of all conversations such as "5%", a number beside the 1 of an ordinary engine, or "listed"."""

    weight: Annotated[float, Field(ge=0, le=100)] | Annotated[str, Field(max_length=40)]


class EngineEntry(Answer):
    """One engine. `weight` is in force; `listed_weight` is that of the list of engines.

    `share` is its part of the conversations that begin now; `running` and `waiting` are the requests that it
    last reported, of all gateways.
    """

    name: str
    url: str
    version: str | None
    state: str
    drained: bool
    weight: str
    listed_weight: str
    share: float
    running: int
    waiting: int


class EngineList(Answer):
    """All engines that are named."""

    object: Literal["list"]
    data: list[EngineEntry]
