"""OpenAI's sampling fields as SGLang's `sampling_params`."""

from collections.abc import Mapping, Sequence
from typing import Any

from serval.caller.identity import GRAMMAR, Identity
from serval.chat.tokenizer import ControlSafeTokenizer
from serval.errors import InvalidRequestError
from serval.grammar.dialect import Dialect
from serval.grammar.free_grammar import ebnf_grammar, regex_grammar
from serval.schema.error import SchemaError
from serval.wire.sampling_rules import SamplingFields

# Tokens between two events of the engine, for answers that are sent whole.
WHOLE_ANSWER_STREAM_INTERVAL = 32

_SAME_NAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
)


def own_grammar(request: SamplingFields, identity: Identity, dialect: Dialect) -> str | None:
    """Return the structural tag of `regex` or `ebnf`, as JSON text, or None if neither was sent.

    Raises `PermissionDeniedError` if the caller may not send one, or `InvalidRequestError` if it cannot be
    enforced.
    """
    if request.regex is None and request.ebnf is None:
        return None
    identity.require_scope(GRAMMAR)
    try:
        if request.regex is None:
            return ebnf_grammar(request.ebnf or "")
        return regex_grammar(request.regex, avoid=dialect.reply.marker_start)
    except SchemaError as error:
        raise InvalidRequestError(f"Invalid grammar in {error}", param=error.path) from error


def check_end(
    request: SamplingFields, *, limit: int | None, grammar: str | None, tokenizer: ControlSafeTokenizer
) -> None:
    """Check the rules for an answer's end, and token ids, which would index past the engine's tables.

    `limit`: the answer's limit of tokens. Raises `InvalidRequestError` naming the field at fault.
    """
    check_token_ids(request.stop_token_ids or (), tokenizer, param="stop_token_ids")
    check_token_ids([int(name) for name in request.logit_bias or ()], tokenizer, param="logit_bias")
    if limit is not None and (request.min_tokens or 0) > limit:
        raise InvalidRequestError(
            f"min_tokens is {request.min_tokens}, more than the answer may have: {limit}.", param="min_tokens"
        )
    if grammar is not None and (request.min_tokens or request.ignore_eos):
        field = "min_tokens" if request.min_tokens else "ignore_eos"
        raise InvalidRequestError(
            f"{field} cannot be held here: a grammar (of tools, response_format, regex or ebnf) decides where"
            " the answer ends.",
            param=field,
            code="unsupported_value",
        )


def check_token_ids(ids: Sequence[int], tokenizer: ControlSafeTokenizer, *, param: str) -> None:
    """Raise `InvalidRequestError` unless all ids are tokens: others would index past the engine's tables."""
    if ids and not (min(ids) >= 0 and max(ids) < tokenizer.vocabulary_size):
        wrong = next(token_id for token_id in ids if not 0 <= token_id < tokenizer.vocabulary_size)
        raise InvalidRequestError(
            f"{param} holds the token id {wrong}; ids are from 0 to {tokenizer.vocabulary_size - 1}.",
            param=param,
        )


def sampling_params(
    request: SamplingFields,
    *,
    max_new_tokens: int | None,
    defaults: Mapping[str, float],
    choice: int,
    keep_special_tokens: bool,
    grammar: str | None,
) -> dict[str, Any]:
    """Return the parameters of one choice. `defaults` are the checkpoint's, for fields not sent.

    With `max_new_tokens` None the engine continues to the end of the context; omitted, it would mean 128.
    `grammar` is a structural tag as JSON text, which the answer will follow.
    """
    params: dict[str, Any] = {**defaults}
    for name in _SAME_NAME:
        value = getattr(request, name)
        if value is not None:
            params[name] = value
    if params.get("top_p") == 0:
        # OpenAI allows 0 for the most likely token; the engine does not.
        params |= {"top_p": 1.0, "top_k": 1}
    if params.get("top_k") == 0:
        params["top_k"] = -1
    params["max_new_tokens"] = max_new_tokens
    if request.stop:
        params["stop"] = [request.stop] if isinstance(request.stop, str) else request.stop
    if request.stop_token_ids:
        params["stop_token_ids"] = request.stop_token_ids
    if request.min_tokens:
        params["min_new_tokens"] = request.min_tokens
    if request.ignore_eos:
        params["ignore_eos"] = True
    if request.seed is not None:
        # Equal seeds would make all choices the same.
        params["sampling_seed"] = min(request.seed + choice, 2**63 - 1)
    # Reasoning and tool calls stand between control tokens, which the engine may drop as special.
    params["skip_special_tokens"] = not (keep_special_tokens or request.skip_special_tokens is False)
    if grammar is not None:
        params["structural_tag"] = grammar
    if not request.stream:
        params["stream_interval"] = WHOLE_ANSWER_STREAM_INTERVAL
    return params
