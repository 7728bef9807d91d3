"""`POST /tokenize` and `POST /detokenize`: from text to token ids and back."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from fastapi import APIRouter, Depends, Request

from serval.api.context import ApiContext
from serval.api.dependencies import Caller, Context, count_request
from serval.api.endpoints import DETOKENIZE, TOKENIZE
from serval.api.http import record_of
from serval.api.json_route import HeldJsonRoute
from serval.api.models import check_model
from serval.api.preparation import beyond_context, in_turn
from serval.api.prompt import declared_tools, rendered_conversation
from serval.api.responses import LIMIT_HEADERS, WITH_KEY, errors, success
from serval.api.sampling import check_token_ids
from serval.caller.identity import Identity
from serval.chat.long_text import TokenLimitError
from serval.wire.chat_request import ChatRequest
from serval.wire.tokenize import (
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeRequest,
    text_or_conversation,
)

T = TypeVar("T")

router = APIRouter(
    route_class=HeldJsonRoute,
    dependencies=[Depends(count_request)],
    responses={**success(headers=LIMIT_HEADERS), **WITH_KEY, **errors(404, 413, 415, 429)},
)


@router.post(TOKENIZE.path, summary="Get the token ids of a text or a conversation")
async def tokenize(
    asked: TokenizeRequest, request: Request, caller: Caller, context: Context
) -> TokenizeAnswer:
    """Return the ids that the chat or completions endpoint would send to the engine."""
    given = text_or_conversation(asked, context.settings.non_text_parts)
    _check_model(asked.model, request, caller, context)
    ids = await _in_turn(request, context, partial(_ids, context, given, caller.subject))
    return TokenizeAnswer(tokens=ids, count=len(ids), max_model_len=context.model.context_length)


@router.post(DETOKENIZE.path, summary="Get the text of token ids")
async def detokenize(
    asked: DetokenizeRequest, request: Request, caller: Caller, context: Context
) -> DetokenizeAnswer:
    """Return the text of token ids; control tokens appear as their names."""
    _check_model(asked.model, request, caller, context)
    text = await _in_turn(request, context, partial(_text, context, asked.tokens))
    return DetokenizeAnswer(prompt=text)


def _check_model(name: str, request: Request, caller: Identity, context: ApiContext) -> None:
    check_model(name, context.model, caller)
    record_of(request.scope).model = context.model.name


async def _in_turn(request: Request, context: ApiContext, work: Callable[[], T]) -> T:
    return await in_turn(context, request.scope, request.receive, len(await request.body()), work)


def _ids(context: ApiContext, given: str | ChatRequest, caller: str) -> list[int]:
    limit = context.model.context_length
    if isinstance(given, str):
        try:
            return context.chat.tokenizer.encode_text(given, limit=limit).tolist()
        except TokenLimitError:
            raise beyond_context(context.model, tokens=limit, param="prompt") from None
    return rendered_conversation(given, declared_tools(given), context, caller=caller, limit=limit).input_ids


def _text(context: ApiContext, tokens: list[int]) -> str:
    limit = context.model.context_length
    if len(tokens) > limit:
        raise beyond_context(context.model, tokens=limit, param="tokens")
    check_token_ids(tokens, context.chat.tokenizer, param="tokens")
    return context.chat.tokenizer.decode(tokens)
