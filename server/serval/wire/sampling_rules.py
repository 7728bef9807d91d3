"""Sampling fields that chat and plain completions share, and rules that types cannot express."""

from collections.abc import Mapping
from typing import Annotated, Protocol

from msgspec import Meta

from serval.errors import InvalidRequestError

MAX_STOPS = 4
# After each token the engine compares the end of the text with every stop string.
MAX_STOP_CHARACTERS = 1024
MAX_LOGIT_BIASES = 1024
MAX_STOP_TOKENS = 64

# Types of two fields; the extra JSON Schema documents the checks below in the OpenAPI document.
_StopString = Annotated[str, Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_STOP_CHARACTERS})]
Stop = _StopString | Annotated[list[_StopString], Meta(extra_json_schema={"maxItems": MAX_STOPS})]
StopTokenIds = Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=MAX_STOP_TOKENS)]
LogitBias = Annotated[
    dict[str, Annotated[float, Meta(ge=-100, le=100)]],
    Meta(
        extra_json_schema={
            "maxProperties": MAX_LOGIT_BIASES,
            "propertyNames": {"pattern": "^[0-9]{1,10}$"},
            "description": "Token ids, and what is added to their scores.",
        }
    ),
]


class SamplingFields(Protocol):
    """Sampling fields of both kinds of request; names and ranges are OpenAI's."""

    @property
    def temperature(self) -> float | None: ...
    @property
    def top_p(self) -> float | None: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def min_p(self) -> float | None: ...
    @property
    def repetition_penalty(self) -> float | None: ...
    @property
    def presence_penalty(self) -> float | None: ...
    @property
    def frequency_penalty(self) -> float | None: ...
    @property
    def logit_bias(self) -> Mapping[str, float] | None: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def stop(self) -> str | list[str] | None: ...
    @property
    def stop_token_ids(self) -> list[int] | None: ...
    @property
    def min_tokens(self) -> int | None: ...
    @property
    def ignore_eos(self) -> bool | None: ...
    @property
    def skip_special_tokens(self) -> bool | None: ...
    @property
    def regex(self) -> str | None: ...
    @property
    def ebnf(self) -> str | None: ...
    @property
    def n(self) -> int | None: ...
    @property
    def stream(self) -> bool | None: ...


def check_sampling(request: SamplingFields, *, max_choices: int) -> None:
    """Raise `InvalidRequestError` naming the field at fault."""
    if request.n is not None and request.n > max_choices:
        raise InvalidRequestError(
            f"n is {request.n}; this server answers with at most {max_choices} choices.", param="n"
        )
    if request.regex is not None and request.ebnf is not None:
        raise InvalidRequestError("Send regex or ebnf, not both.", param="ebnf")
    check_stop(request.stop, param="stop")
    _check_logit_bias(request.logit_bias)


def check_stop(stop: str | list[str] | None, *, param: str) -> None:
    """Check the stop strings of the field `param`. Raises `InvalidRequestError`."""
    stops = [stop] if isinstance(stop, str) else stop or []
    if len(stops) > MAX_STOPS:
        raise InvalidRequestError(
            f"{param} holds {len(stops)} strings; at most {MAX_STOPS} are allowed.", param=param
        )
    for text in stops:
        if not text:
            raise InvalidRequestError(f"{param} must not hold an empty string.", param=param)
        if len(text) > MAX_STOP_CHARACTERS:
            raise InvalidRequestError(
                f"{param} holds a string of {len(text)} characters; at most {MAX_STOP_CHARACTERS} are"
                " allowed.",
                param=param,
            )


def _check_logit_bias(logit_bias: Mapping[str, float] | None) -> None:
    if logit_bias is None:
        return
    if len(logit_bias) > MAX_LOGIT_BIASES:
        raise InvalidRequestError(
            f"logit_bias has {len(logit_bias)} entries; at most {MAX_LOGIT_BIASES} are allowed.",
            param="logit_bias",
        )
    for token_id in logit_bias:
        if not (token_id.isascii() and token_id.isdigit() and len(token_id) <= 10):
            raise InvalidRequestError(
                f"logit_bias has the key {token_id[:40]!r}; keys must be token ids.", param="logit_bias"
            )
