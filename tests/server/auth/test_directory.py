"""The key directory: accepted keys, changes of the database, and a database that cannot be reached."""

import contextlib
import hmac
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from serval.auth.directory import KeyDirectory
from serval.errors import AuthenticationError, AuthUnavailableError
from serval.settings import Settings
from serval.store.database import open_database
from serval.store.key_store import KeyStore


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(open_database(str(tmp_path / "keys.db")), now=Clock())


def directory_of(store: KeyStore, clock: Clock) -> KeyDirectory:
    return KeyDirectory(store, poll_s=0.01, max_stale_s=30, now=clock, monotonic=clock)


def test_identify_key_gives_its_id_scopes_and_models(store: KeyStore) -> None:
    record, key = store.create(name="a", scopes=["inference"], models=["m"])
    identity = directory_of(store, Clock()).identify(key)
    assert (identity.key_id, identity.scopes, identity.models) == (record.id, {"inference"}, {"m"})


def test_identify_refuses_all_other_keys_with_one_message(store: KeyStore) -> None:
    record, key = store.create(name="a", scopes=["inference"])
    directory = directory_of(store, Clock())
    wrong = ["sk-serval-000000000000-00", f"sk-serval-{record.id}-00", key + "0", key[:-1], "x", record.id]
    messages = set()
    for attempt in wrong:
        with pytest.raises(AuthenticationError) as caught:
            directory.identify(attempt)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_identify_costs_one_digest_and_one_comparison_for_any_key(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of an answer must not reveal which keys exist."""
    record, key = store.create(name="a", scopes=["inference"])
    directory, done = directory_of(store, Clock()), list[str]()
    digest, compare = store.digest, hmac.compare_digest
    monkeypatch.setattr(store, "digest", lambda given: done.append("digest") or digest(given))
    monkeypatch.setattr(
        "serval.auth.directory.hmac.compare_digest", lambda a, b: done.append("compare") or compare(a, b)
    )
    for attempt in (key, key[:-1] + "x", f"sk-serval-{record.id}-00", "sk-serval-000000000000-00", "x"):
        done.clear()
        with contextlib.suppress(AuthenticationError):
            directory.identify(attempt)
        assert done == ["digest", "compare"], attempt


def test_refresh_picks_up_changes(store: KeyStore) -> None:
    directory = directory_of(store, Clock())
    record, key = store.create(name="a", scopes=["inference"])
    with pytest.raises(AuthenticationError):
        directory.identify(key)
    directory.refresh()
    directory.identify(key)
    store.revoke(record.id)
    directory.refresh()
    with pytest.raises(AuthenticationError, match="revoked"):
        directory.identify(key)


def test_identify_expired_key_is_refused_without_a_refresh(store: KeyStore) -> None:
    clock = Clock()
    _, key = store.create(name="a", scopes=["inference"], expires_in_s=10)
    directory = directory_of(store, clock)
    clock.now += 9
    directory.identify(key)
    clock.now += 1
    with pytest.raises(AuthenticationError, match="expired"):
        directory.identify(key)


def test_identify_verified_key_is_checked_again_after_changes_and_expiry(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, checked = Clock(), list[str]()
    directory = directory_of(store, clock)
    record, key = store.create(name="a", scopes=["inference"])
    _, short = store.create(name="b", scopes=["inference"], expires_in_s=10)
    directory.refresh()
    digest = store.digest
    monkeypatch.setattr(store, "digest", lambda given: checked.append(given) or digest(given))
    for _ in range(3):
        directory.identify(key)
        directory.identify(short)
    assert checked == [key, short]
    clock.now += 11
    directory.identify(key)
    with pytest.raises(AuthenticationError, match="expired"):
        directory.identify(short)
    store.revoke(record.id)
    directory.refresh()
    with pytest.raises(AuthenticationError):
        directory.identify(key)


def test_identify_remembers_a_bounded_number_of_keys(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval.auth.directory._MAX_REMEMBERED", 2)
    keys = [store.create(name="a", scopes=["inference"])[1] for _ in range(5)]
    directory = directory_of(store, Clock())
    for key in keys * 2:
        directory.identify(key)
        assert len(directory._snapshot.remembered) <= 2


def test_identify_accepts_keys_for_a_while_without_the_database(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    _, key = store.create(name="a", scopes=["inference"])
    directory = directory_of(store, clock)

    def fail(_: KeyStore) -> int:
        raise OperationalError("select", {}, Exception("gone"))

    with monkeypatch.context() as patch:
        patch.setattr(KeyStore, "version", fail)
        clock.now += 29
        with pytest.raises(OperationalError):
            directory.refresh()
        directory.identify(key)
        clock.now += 2
        with pytest.raises(AuthUnavailableError):
            directory.identify(key)
    directory.refresh()
    directory.identify(key)


def test_key_poll_interval_bounds_the_delay_of_a_revocation() -> None:
    assert Settings().key_poll_s <= 0.5
    with pytest.raises(ValueError, match="key_poll_s"):
        Settings(key_poll_s=1.0)
