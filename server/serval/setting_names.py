"""Names of settings: their sections, what a mistyped one resembles, and the other SERVAL_ variables.

Nothing here reads the environment; `settings` passes it in.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Final

from pydantic import ValidationError

PREFIX: Final = "SERVAL_"

# Title of a section -> the first setting in it; the others follow in the order of `Settings`.
_SECTIONS: Final = {
    "Listening": "settings_file",
    "Keys": "api_key",
    "Tokens of an identity provider": "oidc_issuer",
    "Admin API": "admin_key",
    "Console": "console",
    "Metrics": "metrics_host",
    "Limits of keys": "requests_per_minute",
    "Counting limits in several processes": "limits_lease_s",
    "Engine": "engine_url",
    "Queue": "engine_slots",
    "Model": "model",
    "Connections": "request_head_timeout_s",
    "Requests and answers": "max_body_bytes",
    "Logs and traces": "otlp_endpoint",
    "Batches": "batch_folder",
}

# Variables with the prefix that are no settings of the gateway, by reader.
OTHER_VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "the engine": (
        "SERVAL_ALLOW_UNTESTED",
        "SERVAL_GRAMMAR_DRAFTS",
        "SERVAL_MOE_OVERLAP_TOKENS",
        "SERVAL_NGRAM_TABLES",
        "SERVAL_PREBUILT_KERNELS",
    ),
    "make and the scripts of deploy/": ("SERVAL_CACHE_DIR",),
    "server/examples": ("SERVAL_BASE_URL",),
    "docker/": (
        "SERVAL_ALERTMANAGER_DIR",
        "SERVAL_BASE",
        "SERVAL_BIND",
        "SERVAL_CHUNKED_PREFILL_SIZE",
        "SERVAL_CONTEXT_LENGTH",
        "SERVAL_CUDA_ARCHITECTURES",
        "SERVAL_ENGINE_ENV_FILE",
        "SERVAL_EP",
        "SERVAL_GATEWAY_ENV_FILE",
        "SERVAL_GPUS",
        "SERVAL_HOSTNAME",
        "SERVAL_KEYS_FILE",
        "SERVAL_MODELS_DIR",
        "SERVAL_THRESHOLDS_FILE",
        "SERVAL_UPSTREAM",
        "SERVAL_VERSION",
    ),
}


def variable_of(field: str) -> str:
    """The environment variable that sets the field."""
    return f"{PREFIX}{field.upper()}"


def sections(fields: Iterable[str]) -> dict[str, list[str]]:
    """The settings in their order, by title of their section."""
    titles = {first: title for title, first in _SECTIONS.items()}
    found: dict[str, list[str]] = {}
    title = ""
    for name in fields:
        title = titles.get(name, title)
        found.setdefault(title, []).append(name)
    return found


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the known name that resembles `name` most, else an empty text."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def unknown_variables(environment: Iterable[str], fields: Iterable[str]) -> dict[str, str]:
    """The names with the prefix that nothing reads, each with a sentence; `fields` are the settings'."""
    known = {variable_of(field) for field in fields}
    known.update(*OTHER_VARIABLES.values())
    # Case does not matter, as when settings are read.
    return {
        name: f"{name} is set, but there is no such setting{did_you_mean(name.upper(), sorted(known))}"
        for name in sorted(environment)
        if name.upper().startswith(PREFIX) and name.upper() not in known
    }


def problems(error: ValidationError, fields: Iterable[str]) -> str:
    """Each rejected setting with what is wrong, in one line; `fields` are the settings there are."""
    # Without the rejected input, which may be a secret.
    found = error.errors(include_input=False, include_url=False)
    return "; ".join(
        _unknown(str(problem["loc"][0]), fields)
        if problem["type"] == "extra_forbidden"
        else f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in found
    )


def _unknown(name: str, fields: Iterable[str]) -> str:
    # A variable's name, too, shows which setting is meant.
    resembles = did_you_mean(name.lower().removeprefix(PREFIX.lower()), sorted(fields))
    return f"unknown setting {name!r}{resembles or '; `serval config show` lists them'}"
