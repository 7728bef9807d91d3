"""Paths of the console, each written once."""

from typing import Final

from serval.api.endpoints import Endpoint, EndpointTable

PREFIX: Final = "/console"


def _page(path: str, *methods: str, label: str | None = None) -> Endpoint:
    # Sessions, not keys: the console itself decides who may see a page.
    return Endpoint(f"{PREFIX}{path}", methods or ("GET", "HEAD"), None, label=label or f"{PREFIX}{path}")


NOW: Final = _page("")
FIGURES: Final = _page("/now/figures")
SIGN_IN: Final = _page("/sign-in", "GET", "HEAD", "POST")
ENTER: Final = _page("/enter")
PROVIDER: Final = _page("/sign-in/provider")
CALLBACK: Final = _page("/sign-in/callback")
SIGN_OUT: Final = _page("/sign-out", "POST")
KEYS: Final = _page("/keys", "GET", "HEAD", "POST")
KEY: Final = _page("/keys/{key_id}")
KEY_LIMITS: Final = _page("/keys/{key_id}/limits", "POST", label="/console/keys/{key_id}")
KEY_ROTATE: Final = _page("/keys/{key_id}/rotate", "POST", label="/console/keys/{key_id}")
KEY_REVOKE: Final = _page("/keys/{key_id}/revoke", "POST", label="/console/keys/{key_id}")
TEAMS: Final = _page("/teams", "GET", "HEAD", "POST")
TEAM: Final = _page("/teams/{team_id}", "GET", "HEAD", "POST")
TEAM_DELETE: Final = _page("/teams/{team_id}/delete", "POST", label="/console/teams/{team_id}")
BATCHES: Final = _page("/batches")
BATCH_CANCEL: Final = _page("/batches/{batch_id}/cancel", "POST", label="/console/batches")
USAGE: Final = _page("/usage")
USAGE_CSV: Final = _page("/usage.csv", label="/console/usage")
PLAYGROUND: Final = _page("/playground")
TOKENS: Final = _page("/playground/tokens", "POST", label="/console/playground")
ASSET: Final = _page("/static/{name}", label="/console/static")

# Passed on to the inference API, which counts and logs them as its own.
CHAT: Final = f"{PREFIX}/playground/chat"
TOKENIZE: Final = f"{PREFIX}/playground/tokenize"

CONSOLE: Final = EndpointTable(
    (
        NOW,
        FIGURES,
        SIGN_IN,
        ENTER,
        PROVIDER,
        CALLBACK,
        SIGN_OUT,
        KEYS,
        KEY,
        KEY_LIMITS,
        KEY_ROTATE,
        KEY_REVOKE,
        TEAMS,
        TEAM,
        TEAM_DELETE,
        BATCHES,
        BATCH_CANCEL,
        USAGE,
        USAGE_CSV,
        PLAYGROUND,
        TOKENS,
        ASSET,
    ),
    scope=None,
)
