"""The playground: its page, its way to the inference API, and tokens as text."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serval.api.endpoints import CHAT_COMPLETIONS
from serval.api.endpoints import TOKENIZE as API_TOKENIZE
from serval.api.http import header, send_error
from serval.api.sampling import check_token_ids
from serval.chat.token_bytes import TokenBytes
from serval.console import endpoints
from serval.console.forms import read_body
from serval.console.guard import check_token_header
from serval.console.pages import page
from serval.console.parts import Console
from serval.console.sessions import Session
from serval.errors import ApiError, InvalidRequestError, MethodNotAllowedError

PASSED_ON: Final = {endpoints.CHAT: CHAT_COMPLETIONS.path, endpoints.TOKENIZE: API_TOKENIZE.path}
_KEY_HEADER: Final = b"x-serval-console-key"
# Headers of the browser that describe the body.
_KEPT_HEADERS: Final = (b"content-type", b"content-length", b"transfer-encoding", b"host")
_MOST_TOKEN_BYTES: Final = 4 << 20


class _Tokens(Struct):
    tokens: Annotated[list[int], Meta(max_length=1 << 19)]


class Piece(Struct, frozen=True):
    """A token: its id, its text, and whether it is a control token."""

    id: int
    text: str
    control: bool


async def playground_page(console: Console, request: Request, session: Session) -> Response:
    """Return the page; its script holds the conversation."""
    return page(
        request,
        "playground.html",
        session=session,
        sessions=console.sessions,
        model=console.context.model.name,
        own_key=console.context.settings.api_key is not None,
        chat=endpoints.CHAT,
        tokenize=endpoints.TOKENIZE,
    )


def passing_on(console: Console) -> ASGIApp:
    """Return the application that passes requests of the page on to the inference API.

    They are the API's own requests, with the key that the page gives: its limits hold and its usage counts.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowedError("Send a POST request.", allow="POST")
            check_token_header(console, Request(scope))
        except ApiError as error:
            await send_error(send, error)
            return
        await console.api(_scope_of_api(console, scope), receive, send)

    return app


def _scope_of_api(console: Console, scope: Scope) -> Scope:
    key = header(scope, _KEY_HEADER)
    own = console.context.settings.api_key
    if not key and own is not None:
        key = own.get_secret_value().strip()
    path = PASSED_ON[scope["path"]]
    headers = [(name, value) for name, value in scope["headers"] if name in _KEPT_HEADERS]
    if key:
        headers.append((b"authorization", b"Bearer " + key.encode("latin-1", "replace")))
    return {**scope, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}


def tokens_of(console: Console) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint that tells the text of token ids, and which of them are control tokens."""

    async def endpoint(request: Request) -> Response:
        check_token_header(console, request)
        body = await read_body(request, max_bytes=_MOST_TOKEN_BYTES)
        try:
            ids = msgspec.json.decode(body, type=_Tokens).tokens
        except msgspec.DecodeError as error:
            raise InvalidRequestError("Send the ids of tokens.") from error
        tokenizer = console.context.chat.tokenizer
        check_token_ids(ids, tokenizer, param="tokens")
        return JSONResponse([msgspec.structs.asdict(piece) for piece in pieces(ids, tokenizer.token_bytes)])

    return endpoint


def pieces(ids: list[int], token_bytes: TokenBytes) -> list[Piece]:
    """Return the tokens; the bytes of one that holds a part of a character are written out."""
    found = []
    for each in ids:
        control = token_bytes.control_text(each)
        if control is not None:
            found.append(Piece(each, control, control=True))
        else:
            text = (token_bytes.of(each) or b"").decode(errors="backslashreplace")
            found.append(Piece(each, text, control=False))
    return found
