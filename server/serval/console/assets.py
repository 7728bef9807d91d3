"""Style sheets and scripts of the pages. `static/PROVENANCE.json` tells where the foreign ones are from."""

from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from serval.errors import NotFoundError

STATIC: Final = Path(__file__).with_name("static")
_MEDIA_TYPES: Final = {
    "console.css": "text/css",
    "pico.min.css": "text/css",
    "now.js": "text/javascript",
    "playground.js": "text/javascript",
}
_FILES: Final = {name: (STATIC / name).read_bytes() for name in _MEDIA_TYPES}


async def asset(request: Request) -> Response:
    """Return a file. Raises `NotFoundError`."""
    name = request.path_params["name"]
    if name not in _FILES:
        raise NotFoundError("The console has no such file.")
    return Response(_FILES[name], media_type=_MEDIA_TYPES[name])
