"""`POST /tokenize` and `POST /detokenize`: what a text or a conversation is to the model, and back."""

import asyncio

import msgspec
from starlette.types import Receive, Scope, Send

from serval.api.chat import declared_tools
from serval.api.completions import check_token_ids
from serval.api.context import ApiContext
from serval.api.http import identity_of, read_json_body, record_of, send_json
from serval.api.models import check_model
from serval.wire.chat_request import ChatRequest
from serval.wire.tokenize import (
    DetokenizeAnswer,
    TokenizeAnswer,
    decode_detokenize_request,
    decode_tokenize_request,
)


class Tokenize:
    """The ids the chat or completions endpoint would send to the engine."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises an `ApiError` or `ClientGoneError`."""
        context = self._context
        body = await read_json_body(scope, receive, max_bytes=context.settings.max_body_bytes)
        model, given = decode_tokenize_request(body)
        check_model(model, context.model, identity_of(scope))
        record_of(scope).model = context.model.name
        if len(body) <= context.settings.inline_render_bytes:
            ids = self._ids(given)
        else:
            ids = await asyncio.get_running_loop().run_in_executor(context.render_executor, self._ids, given)
        answer = TokenizeAnswer(tokens=ids, count=len(ids), max_model_len=context.model.context_length)
        await send_json(send, msgspec.json.encode(answer))

    def _ids(self, given: str | ChatRequest) -> list[int]:
        chat = self._context.chat
        if isinstance(given, str):
            return chat.tokenizer.encode_text(given).tolist()
        return chat.render(msgspec.to_builtins(given.messages), tools=declared_tools(given)).input_ids


class Detokenize:
    """The text of token ids; control tokens appear as their names."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises an `ApiError` or `ClientGoneError`."""
        context = self._context
        body = await read_json_body(scope, receive, max_bytes=context.settings.max_body_bytes)
        request = decode_detokenize_request(body)
        check_model(request.model, context.model, identity_of(scope))
        record_of(scope).model = context.model.name
        tokenizer = context.chat.tokenizer
        check_token_ids(request.tokens, tokenizer, param="tokens")
        if len(body) <= context.settings.inline_render_bytes:
            text = tokenizer.decode(request.tokens)
        else:
            loop = asyncio.get_running_loop()
            text = await loop.run_in_executor(context.render_executor, tokenizer.decode, request.tokens)
        await send_json(send, msgspec.json.encode(DetokenizeAnswer(prompt=text)))
