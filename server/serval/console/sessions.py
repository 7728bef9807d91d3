"""Sessions: signed, bounded in time, and without the key that began them."""

import hmac
import secrets
import time
from collections.abc import Callable
from typing import Final, Literal, TypedDict

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from serval.console.signing import Signer

COOKIE: Final = "serval_console"
_SESSION: Final = "session"
_FORM: Final = "form"
# Sessions that were ended are remembered until they would have ended by themselves.
_MOST_ENDED: Final = 10_000

# Beginnings of `Session.who`: a key of the database with its id, the operator's key, the link of
# `serval serve --console`, a person of the identity provider with their name.
DATABASE_KEY: Final = "key:"
ADMIN_KEY: Final = "admin-key"
LINK: Final = "link"


class Session(Struct, frozen=True):
    """A signed-in person. `who` names what they signed in with, `until` is Unix time in seconds."""

    id: str
    who: str
    until: int


class Sessions:
    """Begins, reads and ends sessions. All processes with the same secret accept each other's."""

    def __init__(
        self,
        signer: Signer,
        *,
        lifetime_s: int,
        is_accepted: Callable[[str], bool],
        now: Callable[[], float] = time.time,
    ) -> None:
        """`is_accepted` tells if the holder (`Session.who`) may still administer."""
        self._signer = signer
        self._lifetime_s = lifetime_s
        self._is_accepted = is_accepted
        self._now = now
        # Ends of the sessions that were signed out of in this process, by id.
        self._ended: dict[str, int] = {}

    def begin(self, who: str) -> Session:
        """Return a new session of the holder."""
        return Session(secrets.token_urlsafe(16), who, int(self._now()) + self._lifetime_s)

    def read(self, request: Request) -> Session | None:
        """Return the session of the request's cookie, or None if there is no valid one."""
        content = self._signer.read(_SESSION, request.cookies.get(COOKIE))
        try:
            session = msgspec.json.decode(content or b"", type=Session)
        except msgspec.DecodeError:
            # Not signed, or by another release.
            return None
        if session.until <= self._now() or session.id in self._ended or not self._is_accepted(session.who):
            return None
        return session

    def end(self, session: Session) -> None:
        """Refuse the session from now on, in this process."""
        now = self._now()
        self._ended = {known: until for known, until in self._ended.items() if until > now}
        if len(self._ended) < _MOST_ENDED:
            self._ended[session.id] = session.until

    def form_token(self, session: Session) -> str:
        """Return the token that forms of the session's pages carry against forged requests."""
        return self._signer.digest(_FORM, session.id.encode()).hex()

    def has_form_token(self, session: Session, given: str) -> bool:
        """Return True if this is the session's token."""
        return hmac.compare_digest(self.form_token(session).encode(), given.encode())

    def set_cookie(self, response: Response, session: Session, *, secure: bool) -> None:
        """Have the browser keep the session, for this site's own requests alone."""
        value = self._signer.sign(_SESSION, msgspec.json.encode(session))
        response.set_cookie(COOKIE, value, max_age=self._lifetime_s, **cookie_options(secure=secure))

    @staticmethod
    def clear_cookie(response: Response, *, secure: bool) -> None:
        """Have the browser forget the session."""
        response.set_cookie(COOKIE, "", max_age=0, **cookie_options(secure=secure))


class CookieOptions(TypedDict):
    """Attributes of a cookie."""

    path: str
    httponly: bool
    secure: bool
    samesite: Literal["lax", "strict"]


def cookie_options(*, secure: bool, samesite: Literal["lax", "strict"] = "strict") -> CookieOptions:
    """Return the attributes of the console's cookies, which no script can read."""
    return {"path": "/console", "httponly": True, "secure": secure, "samesite": samesite}
