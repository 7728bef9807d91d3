"""Settings of the adapter. Only this module reads the environment; values are passed to all others."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

TablePlace = Literal["device", "host"]
# Features whose answers have not been compared on a GPU: refused unless allowed by name.
Untested = Literal["hicache"]

_TABLES_VARIABLE = "SERVAL_NGRAM_TABLES"
_OVERLAP_VARIABLE = "SERVAL_MOE_OVERLAP_TOKENS"
_GRAMMAR_VARIABLE = "SERVAL_GRAMMAR_DRAFTS"
# The gateway reads the same variable.
_KEY_VARIABLE = "SERVAL_ENGINE_API_KEY"
# Variables of an engine that only the process which started it talks to.
NO_ENGINE_KEY: Mapping[str, str] = {_KEY_VARIABLE: ""}
_PREBUILT_VARIABLE = "SERVAL_PREBUILT_KERNELS"
_UNTESTED_VARIABLE = "SERVAL_ALLOW_UNTESTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Choices about the model that SGLang has no flags for.

    `ngram_tables` names the memory that holds the n-gram tables, the device's or the host's. On a GPU,
    batches of up to `moe_overlap_tokens` tokens compute a layer's experts on a second stream; 0 means never.
    With drafts, `grammar_drafts` adds the tokens that a grammar forces.
    """

    ngram_tables: TablePlace = "device"
    moe_overlap_tokens: int = 0
    grammar_drafts: bool = True


def model_settings(environment: Mapping[str, str] | None = None) -> ModelSettings:
    """Read the settings from `environment`, by default this process's.

    The launcher puts its flags there, because SGLang's scheduler processes inherit nothing else from it.
    Raises `ValueError` if a variable has an invalid value.
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
    drafts = given.get(_GRAMMAR_VARIABLE, str(ModelSettings().grammar_drafts))
    if drafts not in ("True", "False"):
        raise ValueError(f"{_GRAMMAR_VARIABLE} must be True or False, got {drafts!r}.")
    return ModelSettings(
        ngram_tables=cast(TablePlace, place),
        moe_overlap_tokens=int(tokens),
        grammar_drafts=drafts == "True",
    )


def model_variables(
    *, ngram_tables: str | None, moe_overlap_tokens: int | None, grammar_drafts: bool | None = None
) -> dict[str, str]:
    """Return variables from which `model_settings` reads these values; None leaves a variable unset."""
    chosen = {
        _TABLES_VARIABLE: ngram_tables,
        _OVERLAP_VARIABLE: moe_overlap_tokens,
        _GRAMMAR_VARIABLE: grammar_drafts,
    }
    return {name: str(value) for name, value in chosen.items() if value is not None}


def engine_api_key() -> str | None:
    """Return the key that requests to the engine must send, or None."""
    return os.environ.get(_KEY_VARIABLE) or None


def prebuilt_kernels(environment: Mapping[str, str]) -> Path | None:
    """Return the folder of compiled kernels that the engine's image names, or None."""
    folder = environment.get(_PREBUILT_VARIABLE)
    return Path(folder) if folder else None


def allowed_untested(environment: Mapping[str, str]) -> Untested | None:
    """Return what the variable allows, or None. Raises `ValueError` if there is no such thing."""
    given = environment.get(_UNTESTED_VARIABLE) or None
    if given not in (None, *get_args(Untested)):
        raise ValueError(
            f"{_UNTESTED_VARIABLE} must be one of {', '.join(get_args(Untested))}, got {given!r}."
        )
    return cast(Untested | None, given)


def inherited_environment() -> dict[str, str]:
    """Return a copy of this process's environment, as the base of the engine process's."""
    return dict(os.environ)


def available_cpus() -> list[int]:
    """Return the ids of the CPUs on which this process may run."""
    return sorted(os.sched_getaffinity(0))
