"""The engine's metrics page, with the same metric names for every Prometheus.

prometheus_client writes `sglang:x` as `sglang_x` for clients that accept OpenMetrics without naming an
escaping scheme. Prometheus before 3.0 is one, and would find none of the names in rules and dashboards.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def keep_names(result: None, app: Any) -> None:
    """Serve the page as plain text to every client. Called after `add_prometheus_middleware(app)`."""
    route = app.routes[-1]
    page = route.app

    async def in_plain_text(scope: MutableMapping[str, Any], receive: _Receive, send: _Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"accept"]
        await page({**scope, "headers": headers}, receive, send)

    route.app = in_plain_text
