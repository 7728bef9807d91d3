"""`/docs` on the admin port: the documents of both APIs, readable in a browser that reaches only this server.

FastAPI's own page loads Swagger UI from a CDN. The package with its files, `swagger-ui-bundle`, has had no
release since 2023, so this page is written by hand.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from serval.api.endpoints import ADMIN_DOCS, ADMIN_DOCS_ASSET
from serval.errors import NotFoundError

_STATIC: Final = Path(__file__).with_name("static")
_MEDIA_TYPES: Final = {"docs.css": "text/css", "docs.html": "text/html", "docs.js": "text/javascript"}
_INFERENCE: Final = "inference.json"
_HEADERS: Final = {
    # Only files of this server, and no script but the page's own.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def docs_router(inference_document: Callable[[], dict[str, Any]]) -> APIRouter:
    """Return the routes of the page. It shows the application's own document, and `inference_document`."""
    files = {name: (_STATIC / name).read_bytes() for name in _MEDIA_TYPES}
    router = APIRouter(include_in_schema=False)

    @router.get(ADMIN_DOCS.path)
    async def docs_page() -> Response:
        return _file("docs.html", files)

    # A plain function runs in a thread: creating the document takes a tenth of a second.
    @router.get(ADMIN_DOCS_ASSET.path)
    def docs_asset(name: str) -> Response:
        if name == _INFERENCE:
            return JSONResponse(inference_document(), headers=_HEADERS)
        if name not in files:
            raise NotFoundError(f"The page has no file {name[:200]!r}.")
        return _file(name, files)

    return router


def _file(name: str, files: dict[str, bytes]) -> Response:
    return Response(files[name], media_type=_MEDIA_TYPES[name], headers=_HEADERS)
