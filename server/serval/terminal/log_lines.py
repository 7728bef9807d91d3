"""Lines of the gateway's JSON log, written for a person."""

import json
from datetime import UTC, datetime
from typing import Any, Final

from rich.text import Text

# Asked by probes, by Prometheus and by this program itself.
_UNSHOWN_ROUTES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_STYLE_BY_LEVEL: Final = {"warning": "yellow", "error": "red", "critical": "red"}
_UNSHOWN_FIELDS: Final = frozenset({"time", "level", "logger", "event", "exception"})


def readable(line: str) -> Text | None:
    """Return the line in words; None for one that is of no interest to a person at a terminal."""
    entry = _entry(line)
    if entry is None:
        return Text(line)
    if entry.get("logger") == "serval.requests":
        return None if entry.get("route") in _UNSHOWN_ROUTES else _request(entry)
    style = _STYLE_BY_LEVEL.get(str(entry.get("level")))
    if style is None:
        return None
    fields = " ".join(f"{name}={value}" for name, value in entry.items() if name not in _UNSHOWN_FIELDS)
    return Text(f"{_clock(entry)}  {entry.get('event')}  {fields}".rstrip(), style=style)


def _entry(line: str) -> dict[str, Any] | None:
    """Return the JSON object, or None for a line that is none: an error that ends the gateway, for one."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _request(entry: dict[str, Any]) -> Text:
    """Return time, status, route, duration, tokens and outcome of a request."""
    status = entry.get("status")
    text = Text(f"{_clock(entry)}  ")
    if entry.get("client_gone"):
        text.append("gone", style="yellow")
    else:
        text.append(f"{status or '---'} ", style="green" if status and status < 400 else "red")
    text.append(f" {entry.get('method')} {entry.get('route')}")
    parts = [_seconds(entry.get("duration_ms"))]
    if entry.get("first_token_ms") is not None:
        parts.append(f"first token {_seconds(entry['first_token_ms'])}")
    if entry.get("prompt_tokens"):
        parts.append(f"{entry['prompt_tokens']:,} → {entry['completion_tokens']:,} tokens")
    if entry.get("cached_tokens"):
        parts.append(f"{entry['cached_tokens']:,} cached")
    outcome = entry.get("error_code") or entry.get("finish_reason")
    parts += [outcome] if outcome else []
    return text.append(f"  {', '.join(parts)}", style="dim")


def _seconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds / 1e3:.2f} s"


def _clock(entry: dict[str, Any]) -> str:
    """Return the entry's local time of day."""
    try:
        when = datetime.fromisoformat(str(entry.get("time")))
    except ValueError:
        when = datetime.now(UTC)
    return f"{when.astimezone():%H:%M:%S}"
