"""Request of `POST /v1/completions`. Explicit null means the same as an absent field."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from serval.errors import InvalidRequestError
from serval.wire.body_size import check_body_size
from serval.wire.chat_request import INT64, StreamOptions
from serval.wire.decode import decode_json
from serval.wire.foreign_fields import check_completion_fields
from serval.wire.sampling_rules import LogitBias, Stop, StopTokenIds, check_sampling

# OpenAI's default for this endpoint.
DEFAULT_MAX_TOKENS = 16

# The engine repeats a prompt's log-probabilities with each event, so it sends few and long ones.
MAX_TOKENS_AFTER_SCORED_PROMPT = 4096

# A text or its token ids.
Prompt = str | list[int]


class CompletionRequest(Struct):
    """Supported fields.

    Names and ranges are OpenAI's; `top_k`, `min_p`, `repetition_penalty`, `regex` and `ebnf` are SGLang's.
    """

    model: str
    # A text, texts, token ids, or lists of token ids; `prompts_of` distinguishes them.
    prompt: str | list[str | int | list[int]]
    # 0 scores or repeats the prompt, with `echo`.
    max_tokens: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: Annotated[int, Meta(ge=1, le=128)] | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**30)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=2)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, INT64] | None = None
    stop: Stop | None = None
    # Further rules for the end of an answer, under the names of other servers.
    stop_token_ids: StopTokenIds | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    logit_bias: LogitBias | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    # Grammars for the whole text; they need a permission.
    regex: Annotated[str, Meta(min_length=1)] | None = None
    ebnf: Annotated[str, Meta(min_length=1)] | None = None
    # Accepted without effect on the answer.
    user: str | None = None
    safety_identifier: Annotated[str, Meta(max_length=64)] | None = None
    prompt_cache_key: Annotated[str, Meta(max_length=1024)] | None = None


class _StrictCompletionRequest(CompletionRequest, forbid_unknown_fields=True):
    """The request for servers that refuse unknown fields."""


_decoder = msgspec.json.Decoder(CompletionRequest)
_strict_decoder: "msgspec.json.Decoder[CompletionRequest]" = msgspec.json.Decoder(_StrictCompletionRequest)


def decode_completion_request(
    body: bytes, *, max_choices: int, max_batch: int, strict: bool
) -> CompletionRequest:
    """Decode and check a request body; `max_batch` bounds the choices of all prompts together.

    Raises `InvalidRequestError` with `param` naming the field at fault.
    """
    check_body_size(body)
    request = decode_json(_strict_decoder if strict else _decoder, body)
    check_completion_fields(body)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequestError("stream_options is only allowed with stream: true.", param="stream_options")
    check_sampling(request, max_choices=max_choices)
    _check_unsupported(request)
    choices = len(prompts_of(request)) * (request.n or 1)
    if choices > max_batch:
        raise InvalidRequestError(
            f"The request asks for {choices} completions; this server makes at most {max_batch} in one call."
            " Send fewer prompts at a time.",
            param="prompt",
        )
    return request


def prompts_of(request: CompletionRequest) -> list[Prompt]:
    """Return the prompts, one for each completion. Raises `InvalidRequestError`."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    kinds = {type(item) for item in prompt}
    if kinds == {int}:
        return [[item for item in prompt if isinstance(item, int)]]
    if kinds in ({str}, {list}):
        prompts: list[Prompt] = [item for item in prompt if isinstance(item, str | list)]
        for index, item in enumerate(prompts):
            if item == []:
                raise InvalidRequestError(
                    f"prompt[{index}] is an empty list of token ids.", param=f"prompt[{index}]"
                )
        return prompts
    raise InvalidRequestError(
        "prompt is an empty list; send at least one prompt."
        if not prompt
        else "prompt mixes texts and token ids; send a text, a list of texts, a list of token ids or a list"
        " of such lists.",
        param="prompt",
    )


def scores_prompt(request: CompletionRequest) -> bool:
    """Return True if the answer has log-probabilities of the prompt's tokens."""
    return bool(request.echo) and request.logprobs is not None


def _check_unsupported(request: CompletionRequest) -> None:
    if request.suffix:
        raise InvalidRequestError(
            "suffix is not served: this model does not fill in the middle of a text.",
            param="suffix",
            code="unsupported_parameter",
        )
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise InvalidRequestError(
            f"best_of is {request.best_of}; this server returns every completion it makes, so best_of must be"
            f" equal to n, which is {request.n or 1}.",
            param="best_of",
            code="unsupported_value",
        )
    if request.max_tokens == 0 and not request.echo:
        raise InvalidRequestError(
            "max_tokens is 0, which is served with echo: true only; with logprobs too, it scores the prompt.",
            param="max_tokens",
        )
    if scores_prompt(request) and (request.max_tokens or 0) > MAX_TOKENS_AFTER_SCORED_PROMPT:
        raise InvalidRequestError(
            f"max_tokens is {request.max_tokens}; with echo and logprobs it may be at most"
            f" {MAX_TOKENS_AFTER_SCORED_PROMPT}.",
            param="max_tokens",
        )
