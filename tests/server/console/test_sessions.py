"""Signed texts and the sessions made of them."""

import base64

import pytest
from starlette.requests import Request
from starlette.responses import Response

from serval.console.sessions import COOKIE, Session, Sessions
from serval.console.signing import Signer

SECRET = bytes(32)


def sessions(secret: bytes = SECRET, *, now: float = 1000.0, accepted: bool = True) -> Sessions:
    return Sessions(Signer(secret), lifetime_s=60, is_accepted=lambda who: accepted, now=lambda: now)


def cookie_of(kept: Sessions, session: Session, *, secure: bool = False) -> str:
    response = Response()
    kept.set_cookie(response, session, secure=secure)
    return response.headers["set-cookie"]


def request_with(cookie: str) -> Request:
    value = cookie.partition(";")[0]
    return Request({"type": "http", "headers": [(b"cookie", value.encode())]})


def test_signed_text_is_read_for_its_purpose_alone() -> None:
    signer = Signer(SECRET)
    signed = signer.sign("one", b"content")
    assert signer.read("one", signed) == b"content"
    assert signer.read("other", signed) is None
    assert Signer(b"x" * 32).read("one", signed) is None


@pytest.mark.parametrize("text", [None, "", ".", "a.b", "é.é", "=.=", "x" * 5000, "YQ==.YQ=="])
def test_text_that_was_not_signed_is_refused(text: str | None) -> None:
    assert Signer(SECRET).read("one", text) is None


def test_every_changed_character_of_a_signed_text_is_noticed() -> None:
    signer = Signer(SECRET)
    signed = signer.sign("one", b"content")
    for place, character in enumerate(signed):
        # The last characters of each half hold bits that are left out.
        changed = signed[:place] + ("A" if character != "A" else "B") + signed[place + 1 :]
        assert signer.read("one", changed) is None or place in (signed.index(".") - 1, len(signed) - 1)


def test_session_is_read_until_it_ends() -> None:
    session = sessions().begin("key:a")
    cookie = cookie_of(sessions(), session)
    assert sessions(now=1059).read(request_with(cookie)) == session
    assert sessions(now=1060).read(request_with(cookie)) is None


def test_session_of_another_release_is_refused() -> None:
    cookie = f"{COOKIE}={Signer(SECRET).sign('session', b'{}')}"
    assert sessions().read(request_with(cookie)) is None


def test_session_of_another_secret_is_refused() -> None:
    cookie = cookie_of(sessions(b"y" * 32), sessions().begin("key:a"))
    assert sessions().read(request_with(cookie)) is None


def test_session_ends_with_its_holders_rights() -> None:
    cookie = cookie_of(sessions(), sessions().begin("key:a"))
    assert sessions(accepted=False).read(request_with(cookie)) is None


def test_ended_session_is_refused() -> None:
    kept = sessions()
    session = kept.begin("key:a")
    cookie = cookie_of(kept, session)
    kept.end(session)
    assert kept.read(request_with(cookie)) is None


def test_form_token_is_that_of_one_session() -> None:
    kept = sessions()
    one, other = kept.begin("key:a"), kept.begin("key:a")
    assert kept.has_form_token(one, kept.form_token(one))
    assert not kept.has_form_token(one, kept.form_token(other))
    assert not kept.has_form_token(one, "")


def test_cookie_is_kept_from_scripts_and_other_sites() -> None:
    session = sessions().begin("key:a")
    plain, secure = (cookie_of(sessions(), session, secure=https) for https in (False, True))
    for cookie in (plain, secure):
        assert {"HttpOnly", "SameSite=strict", "Path=/console", "Max-Age=60"} <= set(cookie.split("; "))
    assert "Secure" not in plain
    assert "Secure" in secure


def test_cookie_shows_no_more_than_who_and_until() -> None:
    cookie = cookie_of(sessions(), Session("id", "key:a", 9))
    content = cookie.partition("=")[2].partition(".")[0]
    assert base64.urlsafe_b64decode(content + "==") == b'{"id":"id","who":"key:a","until":9}'
    assert cookie.startswith(f"{COOKIE}=")
