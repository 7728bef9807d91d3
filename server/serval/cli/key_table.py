"""Records of keys as a table for a terminal."""

import time
import unicodedata
from collections.abc import Iterable, Sequence

from serval.caller.budgets import Budgets
from serval.caller.limits import KeyLimits
from serval.store.key_store import KeyRecord

_HEAD = ("NAME", "ID", "STATE", "CREATED", "EXPIRES", "SCOPES", "MODELS", "TEAM", "LIMITS")


def key_table(records: Iterable[KeyRecord], *, now: float) -> str:
    """A line for each key below a header, in columns; times are in UTC. `now` is Unix time in seconds."""
    return aligned([_HEAD, *(_row(record, now) for record in records)])


def limits_text(limits: KeyLimits, budgets: Budgets, *, none: str = "default") -> str:
    """The limits that differ from the defaults, and the budgets; `none` without any."""
    shown = [f"{name}={value}" for name, value in limits.as_object().items() if value != "default"]
    return " ".join([*shown, *map(str, budgets)]) or none


def printable(text: str) -> str:
    """The text with its control characters escaped: databases of earlier releases may hold some."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def state_of(record: KeyRecord, now: float) -> str:
    """`live`, `revoked` or `expired`; `until TIME` for a key that was rotated and is still accepted."""
    if record.expires_at is not None and record.expires_at <= now:
        return "expired"
    if record.revoked_at is None:
        return "live"
    return "revoked" if record.revoked_at <= now else f"until {time_text(record.revoked_at)}"


def _row(record: KeyRecord, now: float) -> tuple[str, ...]:
    return (
        printable(record.name),
        record.id,
        state_of(record, now),
        time_text(record.created_at),
        "never" if record.expires_at is None else time_text(record.expires_at),
        ",".join(sorted(record.scopes)),
        "all" if record.models is None else printable(",".join(sorted(record.models))),
        record.team or "-",
        limits_text(record.limits, record.budgets),
    )


def time_text(when: int) -> str:
    """Unix time as in 2026-11-30T08:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The rows as lines of columns as wide as their widest cells."""
    widths = [max(_width(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def _width(text: str) -> int:
    """Columns of a terminal that the text takes (Unicode Standard Annex 11)."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
