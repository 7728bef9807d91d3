"""Limits that one client is held to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class HttpLimits:
    """Times are in seconds, sizes in bytes.

    `stalled_client_s`: how long a client may leave everything unread. `connections`: limit of this process.
    """

    head_timeout_s: float
    body_timeout_s: float
    idle_s: float
    stalled_client_s: float
    connections: int
    head_bytes: int = 64 << 10
    head_fields: int = 100
    # Limit of bytes that are read and dropped after a response, so that the client can read it.
    dropped_bytes: int = 256 << 20
