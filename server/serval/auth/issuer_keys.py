"""Public keys of a token issuer: fetched, cached, and fetched again when one is unknown."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp

from serval.auth.jwks import IssuerKey, JwksError, read_jwks
from serval.errors import AuthenticationError, AuthUnavailableError

logger = logging.getLogger(__name__)

_MAX_DOCUMENT_BYTES: Final = 1 << 20
_FETCH_TIMEOUT_S: Final = 5.0
# Bound on fetches caused by tokens with invented key ids.
_MIN_FETCH_INTERVAL_S: Final = 5.0
# Requests that may wait for a fetch; others are refused with Retry-After.
_MAX_WAITERS: Final = 256


class IssuerKeys:
    """A copy of the issuer's keys, kept fresh by `watch`.

    Requests wait for the issuer only if a key is missing from the copy, and then share one fetch.
    """

    def __init__(
        self,
        source: str | Path,
        *,
        refresh_s: float,
        max_stale_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`source`: a URL or a file. Nothing is read yet."""
        self._source = source
        self._refresh_s = refresh_s
        self._max_stale_s = max_stale_s
        self._monotonic = monotonic
        self._keys: dict[str | None, IssuerKey] = {}
        self._document = b""
        self._fresh_at = float("-inf")
        self._fetch_started_at = float("-inf")
        self._fetch_task: asyncio.Task[None] | None = None
        self._waiters = 0
        # Incremented with each change: tokens verified with keys of another generation are verified again.
        self.generation = 0

    def load(self, document: bytes) -> None:
        """Replace the keys by those of `document`. Raises `JwksError` and keeps the old ones."""
        if document != self._document:
            self._keys = read_jwks(document)
            self._document = document
            self.generation += 1
        self._fresh_at = self._monotonic()

    async def watch(self) -> None:
        """Fetch periodically, until cancelled."""
        while True:
            await self._fetch_once()
            await asyncio.sleep(
                min(self._refresh_s, _FETCH_TIMEOUT_S) if self._is_stale() else self._refresh_s
            )

    async def find(self, key_id: str | None) -> IssuerKey:
        """The key with this id; a token without key id is accepted if the issuer has a single key.

        Raises `AuthenticationError`, or `AuthUnavailableError` while the issuer's keys are not known.
        """
        key = self._lookup(key_id)
        if key is None and self._may_fetch():
            await self._wait_for_fetch()
            key = self._lookup(key_id)
        if self._is_stale():
            raise AuthUnavailableError(
                "Tokens cannot be checked at the moment. Try again shortly.", retry_after_s=2
            )
        if key is None:
            raise AuthenticationError(
                "The token is signed with a key that its issuer does not list. Get a new token."
            )
        return key

    def _lookup(self, key_id: str | None) -> IssuerKey | None:
        if self._is_stale():
            return None
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    def _is_stale(self) -> bool:
        return self._monotonic() - self._fresh_at > self._max_stale_s

    def _may_fetch(self) -> bool:
        return (
            self._fetch_task is not None
            or self._monotonic() - self._fetch_started_at >= _MIN_FETCH_INTERVAL_S
        )

    async def _wait_for_fetch(self) -> None:
        if self._waiters >= _MAX_WAITERS:
            raise AuthUnavailableError(
                "Tokens cannot be checked at the moment. Try again shortly.", retry_after_s=2
            )
        self._waiters += 1
        try:
            await self._fetch_once()
        finally:
            self._waiters -= 1

    async def _fetch_once(self) -> None:
        if self._fetch_task is None:
            self._fetch_started_at = self._monotonic()
            self._fetch_task = asyncio.create_task(self._fetch())
        # Shared: a request that is cancelled must not cancel the fetch of others.
        await asyncio.wait({self._fetch_task})

    async def _fetch(self) -> None:
        try:
            self.load(await self._read())
        except (JwksError, aiohttp.ClientError, OSError, TimeoutError) as error:
            logger.warning("the issuer's keys cannot be read: %s: %s", type(error).__name__, error)
        finally:
            self._fetch_task = None

    async def _read(self) -> bytes:
        if isinstance(self._source, Path):
            return await asyncio.to_thread(self._source.read_bytes)
        timeout = aiohttp.ClientTimeout(total=_FETCH_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self._source, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise JwksError(f"the issuer answered with HTTP {response.status}")
            document = await response.content.read(_MAX_DOCUMENT_BYTES + 1)
            while len(document) <= _MAX_DOCUMENT_BYTES and (more := await response.content.readany()):
                document += more
        if len(document) > _MAX_DOCUMENT_BYTES:
            raise JwksError(f"it is larger than {_MAX_DOCUMENT_BYTES} bytes")
        return document
