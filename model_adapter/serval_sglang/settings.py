"""The environment of the adapter: the only module here that reads it. Everything else gets values passed."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

TablePlace = Literal["device", "host"]

_TABLES_VARIABLE = "SERVAL_NGRAM_TABLES"
_OVERLAP_VARIABLE = "SERVAL_MOE_OVERLAP_TOKENS"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What an operator may choose about the model, beside SGLang's own flags.

    Attributes:
        ngram_tables: the memory that holds the n-gram tables: the device's, or the host's.
        moe_overlap_tokens: on a GPU, batches of up to so many tokens compute a layer's experts on a second
            stream; 0 never.
    """

    ngram_tables: TablePlace = "device"
    moe_overlap_tokens: int = 0


def model_settings(environment: Mapping[str, str] | None = None) -> ModelSettings:
    """The settings in ``environment``, by default this process's; the launcher puts its flags there, because
    SGLang's scheduler processes inherit nothing else from it.

    Raises:
        ValueError: a variable has a value that means nothing.
    """
    given = os.environ if environment is None else environment
    place = given.get(_TABLES_VARIABLE, ModelSettings().ngram_tables)
    if place not in get_args(TablePlace):
        raise ValueError(
            f"{_TABLES_VARIABLE} must be one of {', '.join(get_args(TablePlace))}, got {place!r}."
        )
    tokens = given.get(_OVERLAP_VARIABLE, str(ModelSettings().moe_overlap_tokens))
    if not (tokens.isascii() and tokens.isdigit()):
        raise ValueError(f"{_OVERLAP_VARIABLE} must be a number of tokens, 0 for never, got {tokens!r}.")
    return ModelSettings(ngram_tables=cast(TablePlace, place), moe_overlap_tokens=int(tokens))


def model_variables(*, ngram_tables: str | None, moe_overlap_tokens: int | None) -> dict[str, str]:
    """What to set in an environment so that `model_settings` finds these; None leaves a variable alone."""
    chosen = {_TABLES_VARIABLE: ngram_tables, _OVERLAP_VARIABLE: moe_overlap_tokens}
    return {name: str(value) for name, value in chosen.items() if value is not None}


def inherited_environment() -> dict[str, str]:
    """A copy of this process's environment, for the engine process to start from."""
    return dict(os.environ)


def available_cpus() -> list[int]:
    """Ids of the CPUs this process may run on."""
    return sorted(os.sched_getaffinity(0))
