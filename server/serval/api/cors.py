"""Pages of other origins in browsers (CORS).

Starlette's middleware stands around the edge: a preflight has no key, and a page has to see errors too.
"""

from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from serval.api.responses import ANSWER_HEADERS, COMMON_HEADERS, REQUEST_ID

_METHODS: Final = ("GET", "HEAD", "POST")
# Headers of answers that a page may read, beside those that it always may.
_EXPOSED: Final = (
    *COMMON_HEADERS,
    *REQUEST_ID,
    *ANSWER_HEADERS,
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
)


def with_cors(app: ASGIApp, origins: str) -> ASGIApp:
    """Return `app`, open to pages of `origins`: separated by spaces, or `*` for all. `app` itself if none.

    Cookies are never asked for: callers authenticate with a header.
    """
    if not origins.strip():
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins.split(),
        allow_methods=_METHODS,
        # OpenAI's client for browsers sends a dozen of its own.
        allow_headers=("*",),
        # The origins are listed, so a page of a public site may call a server in the local network.
        allow_private_network=True,
        expose_headers=_EXPOSED,
    )
