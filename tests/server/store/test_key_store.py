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


def test_a_key_is_found_again_by_another_process(key_database: str) -> None:
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


def test_the_database_holds_neither_key_nor_secret(key_database: str) -> None:
    database = open_database(key_database)
    _, key = KeyStore(database).create(name="alice", scopes=["inference"])
    secret = key.rpartition("-")[2]
    with database.connect() as connection:
        rows = repr(connection.execute(text("SELECT * FROM api_keys")).all())
    assert secret not in rows
    assert secret.encode().hex() not in rows


def test_a_database_that_is_up_to_date_is_opened_without_loading_the_migrations(key_database: str) -> None:
    open_database(key_database)
    program = (
        "import sys; from serval.store.database import open_database; open_database(sys.argv[1]);"
        " print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, key_database], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_newest_revision_is_the_last_migration() -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.NEWEST]


def test_every_change_makes_a_new_version(key_database: str) -> None:
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


def test_revoking_counts_from_now_and_is_not_undone(key_database: str) -> None:
    clock = Clock()
    store = open_store(key_database, clock)
    record, _ = store.create(name="a", scopes=["inference"])
    revoked = store.revoke(record.id)
    assert not revoked.is_live(clock.now)
    clock.now += 100
    assert store.revoke(record.id) == revoked


def test_rotating_keeps_what_the_key_may_do_and_the_old_one_for_a_while(key_database: str) -> None:
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
    # A grace period never gives a revoked key more time.
    store.revoke(old.id)
    store.rotate(old.id, grace_s=30)
    kept = next(key for key in store.load()[1] if key.id == old.id)
    assert not kept.is_live(clock.now)


@pytest.mark.parametrize("action", ["rotate", "revoke"])
def test_an_unknown_id_is_an_error_that_changes_nothing(key_database: str, action: str) -> None:
    store = open_store(key_database)
    version = store.version()
    with pytest.raises(UnknownKeyError, match="nosuch"):
        getattr(store, action)("nosuch")
    assert store.version() == version


def test_processes_that_open_a_new_database_together_agree(key_database: str) -> None:
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


def test_a_pepper_must_stay_what_it_was(key_database: str) -> None:
    store = open_store(key_database, pepper="one")
    assert open_store(key_database, pepper="one").digest("k") == store.digest("k")
    for wrong in ("two", None):
        with pytest.raises(SettingsError, match="SERVAL_KEY_PEPPER"):
            open_store(key_database, pepper=wrong)


def test_a_pepper_cannot_come_later(key_database: str) -> None:
    open_store(key_database)
    with pytest.raises(SettingsError, match="SERVAL_KEY_PEPPER"):
        open_store(key_database, pepper="one")


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
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
def test_a_database_that_cannot_be_used_is_a_settings_error_without_the_password(location: str) -> None:
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
def test_the_public_part_of_a_key(key: str, found: str | None) -> None:
    assert public_id(key) == found
