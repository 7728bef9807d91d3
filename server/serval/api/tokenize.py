"""`POST /tokenize` and `POST /detokenize`: from text to token ids and back."""

import asyncio

import msgspec
from fastapi import APIRouter, Depends, Request

from serval.api.chat import declared_tools
from serval.api.context import ApiContext
from serval.api.dependencies import Caller, Context, count_request
from serval.api.endpoints import DETOKENIZE, TOKENIZE
from serval.api.http import record_of
from serval.api.json_route import JsonRoute
from serval.api.models import check_model
from serval.api.responses import LIMIT_HEADERS, WITH_KEY, errors, success
from serval.api.sampling import check_token_ids
from serval.caller.identity import Identity
from serval.wire.chat_request import ChatRequest
from serval.wire.tokenize import (
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeRequest,
    text_or_conversation,
)

router = APIRouter(
    route_class=JsonRoute,
    dependencies=[Depends(count_request)],
    responses={**success(headers=LIMIT_HEADERS), **WITH_KEY, **errors(404, 413, 415, 429)},
)


@router.post(TOKENIZE.path, summary="Get the token ids of a text or a conversation")
async def tokenize(
    asked: TokenizeRequest, request: Request, caller: Caller, context: Context
) -> TokenizeAnswer:
    """Return the ids that the chat or completions endpoint would send to the engine."""
    given = text_or_conversation(asked)
    _check_model(asked.model, request, caller, context)
    if await _is_small(request, context):
        ids = _ids(context, given)
    else:
        ids = await asyncio.get_running_loop().run_in_executor(context.render_executor, _ids, context, given)
    return TokenizeAnswer(tokens=ids, count=len(ids), max_model_len=context.model.context_length)


@router.post(DETOKENIZE.path, summary="Get the text of token ids")
async def detokenize(
    asked: DetokenizeRequest, request: Request, caller: Caller, context: Context
) -> DetokenizeAnswer:
    """Return the text of token ids; control tokens appear as their names."""
    _check_model(asked.model, request, caller, context)
    tokenizer = context.chat.tokenizer
    check_token_ids(asked.tokens, tokenizer, param="tokens")
    if await _is_small(request, context):
        text = tokenizer.decode(asked.tokens)
    else:
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(context.render_executor, tokenizer.decode, asked.tokens)
    return DetokenizeAnswer(prompt=text)


def _check_model(name: str, request: Request, caller: Identity, context: ApiContext) -> None:
    check_model(name, context.model, caller)
    record_of(request.scope).model = name


async def _is_small(request: Request, context: ApiContext) -> bool:
    return len(await request.body()) <= context.settings.inline_render_bytes


def _ids(context: ApiContext, given: str | ChatRequest) -> list[int]:
    if isinstance(given, str):
        return context.chat.tokenizer.encode_text(given).tolist()
    return context.chat.render(msgspec.to_builtins(given.messages), tools=declared_tools(given)).input_ids
