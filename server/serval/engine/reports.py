"""Reports of an engine about itself, as it sends them, and the check of its role in a pair."""

from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

from serval.engine.protocol import RankLoad
from serval.errors import SettingsError

# Part of a request that an engine computes, by SGLang's names: all of it, or a half as one of a pair.
Role = Literal["null", "prefill", "decode"]

_NEEDED: Final[Mapping[Role, str]] = {
    "null": "such an engine is of use in a pair only: pd+http://PREFILL:PORT|http://DECODE:PORT",
    "prefill": "the first engine of a pair needs prefill",
    "decode": "the second engine of a pair needs decode",
}


class ModelInfo(Struct):
    """Answer to `/model_info`."""

    model_path: str
    architectures: list[str] | None = None
    disaggregation_mode: str | None = None
    # SGLang's word for no name is `default`.
    weight_version: str | None = None


class InternalState(Struct):
    """State of one data-parallel rank."""

    effective_max_running_requests_per_dp: int | None = None


class ServerInfo(Struct):
    """Answer to `/server_info`."""

    max_req_input_len: int
    incremental_streaming_output: bool
    # KV cache of one rank, in tokens.
    max_total_num_tokens: int = 0
    internal_states: list[InternalState] = []


class Loads(Struct):
    """Answer to `/v1/loads`."""

    loads: list[RankLoad]


class Tokens(Struct):
    """Answer to `/tokenize`."""

    tokens: list[int]


class ModelCard(Struct):
    """Entry of `ModelList`; the length is that of the context in tokens."""

    max_model_len: int | None


class ModelList(Struct):
    """Answer to `/v1/models`."""

    data: list[ModelCard]


def check_role(url: str, found: str | None, needed: Role) -> None:
    """Check the engine's `--disaggregation-mode`, None if it does not tell. Raises `SettingsError`."""
    if found not in (None, needed):
        raise SettingsError(
            f"the engine at {url} was started with --disaggregation-mode {found}, and {_NEEDED[needed]}"
        )
