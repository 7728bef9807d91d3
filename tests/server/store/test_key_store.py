"""API keys in real databases, SQLite and PostgreSQL."""

import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import alembic.config
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import OperationalError

from serval.caller.limits import KeyLimits
from serval.errors import DeadKeyError, SettingsError, UnknownKeyError
from serval.settings import Settings
from serval.store import factory, key_store, migrations
from serval.store.database import open_database, reason_of
from serval.store.key_store import KeyRecord, KeyStore, public_id


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def open_store(location: str, clock: Clock | None = None, pepper: str | None = None) -> KeyStore:
    return KeyStore(open_database(location), now=clock or Clock(), pepper=pepper)


def test_key_store_key_is_found_by_another_process(key_database: str) -> None:
    record, key = open_store(key_database).create(
        name="alice", scopes=["inference", "admin"], models=["org/a", "b"], expires_in_s=60
    )
    assert key.startswith(f"sk-serval-{record.id}-")
    other = open_store(key_database)
    assert other.load()[1] == [record]
    assert other.digest(key) == record.digest
    assert record.scopes == {"inference", "admin"}
    assert record.models == {"org/a", "b"}
    assert record.expires_at == record.created_at + 60
    assert record.is_live(record.created_at + 59)
    assert not record.is_live(record.created_at + 60)


def test_key_store_holds_neither_key_nor_secret(key_database: str) -> None:
    database = open_database(key_database)
    _, key = KeyStore(database).create(name="alice", scopes=["inference"])
    secret = key.rpartition("-")[2]
    with database.connect() as connection:
        rows = repr(connection.execute(text("SELECT * FROM api_keys")).all())
    assert secret not in rows
    assert secret.encode().hex() not in rows


def test_open_database_up_to_date_does_not_load_the_migrations(key_database: str) -> None:
    open_database(key_database)
    program = (
        "import sys; from serval.store.database import open_database; open_database(sys.argv[1]);"
        " print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, key_database], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_newest_revision_is_the_last_migration() -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.NEWEST]


def test_version_increases_with_every_change(key_database: str) -> None:
    store = open_store(key_database)
    versions = [store.version()]
    record, _ = store.create(name="a", scopes=["inference"])
    versions.append(store.version())
    store.rotate(record.id)
    versions.append(store.version())
    store.revoke(store.load()[1][-1].id)
    versions.append(store.version())
    assert versions == sorted(versions)
    assert len(set(versions[:3])) == 3
    assert store.load()[0] == versions[-1]


def test_revoke_takes_effect_now_and_is_final(key_database: str) -> None:
    clock = Clock()
    store = open_store(key_database, clock)
    record, _ = store.create(name="a", scopes=["inference"])
    revoked = store.revoke(record.id)
    assert not revoked.is_live(clock.now)
    clock.now += 100
    assert store.revoke(record.id) == revoked


def test_rotate_keeps_permissions_and_the_old_key_for_the_grace_period(key_database: str) -> None:
    clock = Clock()
    store = open_store(key_database, clock)
    old, old_key = store.create(name="a", scopes=["admin"], models=["m"], expires_in_s=1000)
    clock.now += 100
    new, new_key = store.rotate(old.id, grace_s=30)
    assert new_key != old_key
    assert (new.name, new.scopes, new.models, new.expires_at) == (
        old.name,
        old.scopes,
        old.models,
        old.expires_at,
    )
    kept = next(key for key in store.load()[1] if key.id == old.id)
    assert kept.is_live(clock.now + 29)
    assert not kept.is_live(clock.now + 30)
    # While it is accepted it can be rotated again, but never lives longer for that.
    store.rotate(old.id, grace_s=300)
    kept = next(key for key in store.load()[1] if key.id == old.id)
    assert kept.is_live(clock.now + 29)
    assert not kept.is_live(clock.now + 30)


@pytest.mark.parametrize("dead", ["revoked", "expired", "rotated, after the grace period"])
def test_rotate_of_a_dead_key_is_refused(key_database: str, dead: str) -> None:
    clock = Clock()
    store = open_store(key_database, clock)
    record, _ = store.create(name="a", scopes=["admin"], expires_in_s=60 if dead == "expired" else None)
    if dead == "revoked":
        store.revoke(record.id)
    elif dead.startswith("rotated"):
        store.rotate(record.id, grace_s=30)
    clock.now += 60
    before = store.load()
    with pytest.raises(DeadKeyError, match=record.id):
        store.rotate(record.id, grace_s=30)
    assert store.load() == before


def meanwhile(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Let `change` happen in another transaction, once, right after the next look-up of a key."""
    find = key_store._find

    def find_and_change(connection: Connection, key_id: str) -> KeyRecord:
        monkeypatch.setattr(key_store, "_find", find)
        found = find(connection, key_id)
        change()
        return found

    monkeypatch.setattr(key_store, "_find", find_and_change)


def test_rotate_of_a_key_that_is_revoked_meanwhile_is_refused(
    key_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = open_store(key_database), open_store(key_database)
    record, _ = store.create(name="a", scopes=["inference"])
    meanwhile(monkeypatch, lambda: other.revoke(record.id))
    with pytest.raises(DeadKeyError):
        store.rotate(record.id, grace_s=3600)
    (kept,) = store.load()[1]
    assert not kept.is_live(Clock().now)


def test_changes_of_two_limits_at_the_same_time_are_both_kept(
    key_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = open_store(key_database), open_store(key_database)
    record, _ = store.create(name="a", scopes=["inference"])
    meanwhile(monkeypatch, lambda: other.update(record.id, limits={"tokens_per_day": 5}))
    store.update(record.id, limits={"requests_per_minute": 7})
    (kept,) = store.load()[1]
    assert kept.limits == KeyLimits(requests_per_minute=7, tokens_per_day=5)


def test_key_store_gives_up_on_a_lock_of_another(key_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serval.store.database._BUSY_TIMEOUT_S", 0.05)
    store = open_store(key_database)
    record, _ = store.create(name="secret-name", scopes=["inference"])
    with open_store(key_database).engine.begin() as locking:
        locking.execute(text("UPDATE api_keys SET name = 'b'"))
        with pytest.raises(OperationalError) as caught:
            store.revoke(record.id)
    # Parameters never appear in the error, which someone may log.
    assert record.id not in str(caught.value)
    assert "\n" not in reason_of(caught.value)
    assert "UPDATE" not in reason_of(caught.value)
    assert store.load()[1][0].revoked_at is None


def test_open_store_locked_database_is_a_settings_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval.store.database._BUSY_TIMEOUT_S", 0.05)
    location = str(tmp_path / "keys.db")
    with open_database(location).begin() as locking:
        locking.execute(text("DELETE FROM key_store"))
        with pytest.raises(SettingsError, match="locked"):
            factory.open_store(Settings(key_database=location))


@pytest.mark.parametrize("key_id", ["nosuch", "", "\0", "a" * 10_000, "\ud800", "'; DROP TABLE api_keys; --"])
def test_key_store_odd_id_is_unknown(key_database: str, key_id: str) -> None:
    store = open_store(key_database)
    for change in (store.revoke, store.rotate):
        with pytest.raises(UnknownKeyError):
            change(key_id)


@pytest.mark.parametrize("action", ["rotate", "revoke"])
def test_key_store_unknown_id_is_an_error_that_changes_nothing(key_database: str, action: str) -> None:
    store = open_store(key_database)
    version = store.version()
    with pytest.raises(UnknownKeyError, match="nosuch"):
        getattr(store, action)("nosuch")
    assert store.version() == version


def test_open_database_concurrent_processes_agree_on_a_new_database(key_database: str) -> None:
    stores: list[KeyStore] = []
    errors: list[Exception] = []

    def open_it() -> None:
        try:
            stores.append(open_store(key_database))
        except Exception as error:  # noqa: BLE001  # shown below
            errors.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({store.digest("key") for store in stores}) == 1


def test_pepper_must_not_change(key_database: str) -> None:
    store = open_store(key_database, pepper="one")
    assert open_store(key_database, pepper="one").digest("k") == store.digest("k")
    for wrong in ("two", None):
        with pytest.raises(SettingsError, match="SERVAL_KEY_PEPPER"):
            open_store(key_database, pepper=wrong)


def test_pepper_cannot_be_added_later(key_database: str) -> None:
    open_store(key_database)
    with pytest.raises(SettingsError, match="SERVAL_KEY_PEPPER"):
        open_store(key_database, pepper="one")


def test_open_database_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys.db"
    open_store(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "location",
    [
        "/nonexistent/folder/keys.db",
        ":memory:",
        "mysql://host/name",
        "nonsense://",
        "postgresql://u:hunter2@127.0.0.1:1/x",  # not-a-secret: nobody has it
    ],
)
def test_open_database_unusable_database_is_a_settings_error_without_the_password(location: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_store(location)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("sk-serval-abc-def", "abc"),
        ("sk-serval-abc-", None),
        ("sk-serval-abc", None),
        ("sk-other-abc-def", None),
        ("", None),
    ],
)
def test_public_id_of_valid_and_invalid_keys(key: str, found: str | None) -> None:
    assert public_id(key) == found
