"""Leases of lines and tasks in the key database."""

from typing import Final

# A lease survives two failed renewals.
_RENEWALS_PER_LEASE: Final = 3


def renewal_pause_s(lease_s: int) -> float:
    """Return the time from one renewal of a lease to the next."""
    return lease_s / _RENEWALS_PER_LEASE
