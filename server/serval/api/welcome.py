"""`GET /`: a page for a browser, and JSON for a program. Neither needs a key, nor names the model."""

from pathlib import Path
from typing import Final

import jinja2
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from serval.api.dependencies import Context
from serval.api.endpoints import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, MODELS, OPENAPI, RESPONSES, ROOT
from serval.api.responses import success
from serval.wire.answers import Answer

_PAGE: Final = jinja2.Template(
    (Path(__file__).with_name("static") / "welcome.html").read_text(encoding="utf-8"), autoescape=True
)
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "vary": "accept",
}

router = APIRouter(responses=success())


class Welcome(Answer):
    """The server, and where its API is."""

    server: str
    ready: bool
    endpoints: dict[str, str]


@router.get(ROOT.path, summary="Introduce the server", response_model=Welcome)
async def welcome(request: Request, context: Context) -> Response:
    """A page if the client accepts HTML, as browsers do; otherwise JSON."""
    ready = not context.engine.slots.stopping and await context.engine.is_ready()
    if "text/html" in request.headers.get("accept", ""):
        origin = _origin(request)
        page = _PAGE.render(ready=ready, origin=origin, base_url=f"{origin}/v1")
        return HTMLResponse(page, headers=_HEADERS)
    endpoints = {
        "models": MODELS.path,
        "chat": CHAT_COMPLETIONS.path,
        "completions": COMPLETIONS.path,
        "responses": RESPONSES.path,
        "messages": MESSAGES.path,
        "openapi": OPENAPI.path,
    }
    content = Welcome(server="serval", ready=ready, endpoints=endpoints)
    return JSONResponse(content.model_dump(), headers={"vary": "accept", "cache-control": "no-store"})


def _origin(request: Request) -> str:
    """Return the origin that the browser used; a proxy that ends TLS says so in `X-Forwarded-Proto`."""
    is_https = request.headers.get("x-forwarded-proto") == "https"
    return f"{'https' if is_https else request.url.scheme}://{request.url.netloc}"
