"""The database's keys in memory, kept fresh: no request waits for the database."""

import asyncio
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sqlalchemy.exc import SQLAlchemyError

from serval.caller.identity import TEAM, Identity, Team
from serval.caller.limits import Limits, in_force
from serval.errors import AuthenticationError, AuthUnavailableError
from serval.store.key_store import KeyRecord, KeyStore, public_id
from serval.store.teams import TeamRecord, TeamStore

logger = logging.getLogger(__name__)

_NO_DIGEST = bytes(32)
_MAX_REMEMBERED = 4096


@dataclass(frozen=True)
class _Snapshot:
    """Records and identities of all keys by public id, and of verified keys by hash."""

    keys: Mapping[str, tuple[KeyRecord, Identity]]
    # Names of teams by the subject of their accounts.
    teams: Mapping[str, str]
    # By a hash under a secret of this process; it is much cheaper than the stored digest, an HMAC by OpenSSL.
    # Part of the snapshot, so that verified keys are forgotten whenever keys change.
    remembered: dict[bytes, tuple[KeyRecord, Identity]] = field(default_factory=dict)


class KeyDirectory:
    """A snapshot of the keys, replaced by `watch` when the database has changed.

    When the database cannot be read for longer than `max_stale_s`, no key is accepted any more: it may have
    been revoked.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        poll_s: float,
        max_stale_s: float,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the keys. Raises SQLAlchemy's errors if they cannot be read."""
        self.store = store
        self.teams = TeamStore(store.engine)
        self._poll_s = poll_s
        self._max_stale_s = max_stale_s
        self._now = now
        self._monotonic = monotonic
        self._version = -1
        self._secret = secrets.token_bytes(32)
        self._snapshot = _Snapshot({}, {})
        self.refresh()

    def refresh(self) -> None:
        """Read the keys if they have changed in the database."""
        read_at = self._monotonic()
        if self.store.version() != self._version:
            self._version, keys = self.store.load()
            teams = self.teams.load()
            limited = {team.id: _team(team) for team in teams}
            self._snapshot = _Snapshot(
                {key.id: (key, _identity(key, limited)) for key in keys},
                {f"{TEAM}{team.id}": team.name for team in teams},
            )
        self._fresh_at = read_at

    async def watch(self) -> None:
        """Refresh periodically, until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await asyncio.to_thread(self.refresh)
            except (SQLAlchemyError, OSError) as error:
                logger.warning("the key database cannot be read: %s", type(error).__name__)

    def identify(self, key: str) -> Identity:
        """The identity of a key. Raises `AuthenticationError` or `AuthUnavailableError`."""
        if self._monotonic() - self._fresh_at > self._max_stale_s:
            raise AuthUnavailableError(
                "API keys cannot be checked at the moment. Try again shortly.", retry_after_s=2
            )
        snapshot = self._snapshot
        mark = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), key=self._secret).digest()
        known = snapshot.remembered.get(mark)
        if known is None:
            known = self._verify(key, snapshot)
            if len(snapshot.remembered) >= _MAX_REMEMBERED:
                snapshot.remembered.clear()
            snapshot.remembered[mark] = known
        record, identity = known
        if not record.is_live(self._now()):
            raise AuthenticationError(
                "This API key has expired or was revoked. Ask the operator for a new one."
            )
        return identity

    def is_live(self, key_id: str) -> bool:
        """True if there is a key with this id that is neither revoked nor expired, as far as known."""
        known = self._snapshot.keys.get(key_id)
        return known is not None and known[0].is_live(self._now())

    def identity_of(self, key_id: str) -> Identity | None:
        """The identity of the key with this id, as far as known."""
        known = self._snapshot.keys.get(key_id)
        return None if known is None else known[1]

    def name_of(self, subject: str) -> str | None:
        """The name of a key or a team, by the subject of its account; None if it is unknown."""
        known = self._snapshot.keys.get(subject)
        return self._snapshot.teams.get(subject) if known is None else known[0].name

    def _verify(self, key: str, snapshot: _Snapshot) -> tuple[KeyRecord, Identity]:
        known = snapshot.keys.get(public_id(key) or "")
        # Compared even without a record, so that the time does not reveal which ids exist.
        stored = _NO_DIGEST if known is None else known[0].digest
        matches = hmac.compare_digest(self.store.digest(key), stored)
        if known is None or not matches:
            raise AuthenticationError(
                "Incorrect API key provided. Check the key, or ask the operator for one."
            )
        return known


def _identity(key: KeyRecord, teams: Mapping[str, Team | None]) -> Identity:
    return Identity(
        scopes=key.scopes,
        key_id=key.id,
        models=key.models,
        limits=key.limits,
        budgets=key.budgets,
        # A team is missing only if all its keys are dead.
        team=None if key.team is None else teams.get(key.team),
    )


def _team(team: TeamRecord) -> Team | None:
    limits = in_force(team.limits, Limits(), team.budgets)
    return None if limits.unlimited else Team(f"{TEAM}{team.id}", team.name, limits)
