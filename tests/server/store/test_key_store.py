"""API keys in real databases, SQLite and PostgreSQL."""

import stat
import subprocess
import sys
import threading
from pathlib import Path

import alembic.config
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import text

from serval.errors import SettingsError, UnknownKeyError
from serval.store import migrations
from serval.store.database import open_database
from serval.store.key_store import KeyStore, public_id


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
    # A grace period never extends the life of a revoked key.
    store.revoke(old.id)
    store.rotate(old.id, grace_s=30)
    kept = next(key for key in store.load()[1] if key.id == old.id)
    assert not kept.is_live(clock.now)


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
