"""Teams and budgets in real databases, SQLite and PostgreSQL."""

import threading

import pytest

from serval.auth.directory import KeyDirectory
from serval.caller.budgets import Budget, Budgets
from serval.caller.limits import KeyLimits, Limits
from serval.errors import TeamHasKeysError, UnknownTeamError
from serval.store.database import open_database
from serval.store.key_store import KeyStore
from serval.store.teams import TeamStore

TOKENS = Budget("tokens", "day", 55, 44)
COST = Budget("cost", "month", 10**12)


def stores(location: str) -> tuple[KeyStore, TeamStore]:
    engine = open_database(location)
    return KeyStore(engine), TeamStore(engine)


def test_team_is_created_changed_listed_and_deleted(key_database: str) -> None:
    keys, teams = stores(key_database)
    before = keys.version()
    team = teams.create(name="research", limits=KeyLimits(concurrent_requests=3), budgets=[COST, TOKENS])
    assert teams.load() == [team]
    assert team.budgets == (TOKENS, COST)
    changed = teams.update(team.id, name="lab", limits={"tokens_per_minute": 7}, budgets=lambda _: ())
    assert (changed.name, changed.budgets) == ("lab", ())
    assert changed.limits == KeyLimits(concurrent_requests=3, tokens_per_minute=7)
    assert teams.delete(team.id) == changed
    assert teams.load() == []
    assert keys.version() == before + 3


@pytest.mark.parametrize("team_id", ["nosuch", "", "\0", "0" * 12, "'; DROP TABLE teams; --"])
def test_team_unknown_id_is_an_error_that_changes_nothing(key_database: str, team_id: str) -> None:
    keys, teams = stores(key_database)
    record, _ = keys.create(name="a", scopes=["inference"])
    before = keys.load()
    with pytest.raises(UnknownTeamError):
        teams.delete(team_id)
    with pytest.raises(UnknownTeamError):
        keys.create(name="b", scopes=["inference"], team=team_id)
    if team_id:
        with pytest.raises(UnknownTeamError):
            keys.update(record.id, team=team_id)
    assert keys.load() == before


def test_team_with_live_keys_is_not_deleted(key_database: str) -> None:
    keys, teams = stores(key_database)
    team = teams.create(name="a")
    record, _ = keys.create(name="a", scopes=["inference"], team=team.id)
    with pytest.raises(TeamHasKeysError, match=record.id):
        teams.delete(team.id)
    keys.revoke(record.id)
    teams.delete(team.id)


def test_key_keeps_team_and_budgets_when_it_is_rotated(key_database: str) -> None:
    keys, teams = stores(key_database)
    team = teams.create(name="a")
    old, _ = keys.create(name="a", scopes=["inference"], team=team.id, budgets=[TOKENS])
    new, _ = keys.rotate(old.id)
    assert (new.team, new.budgets) == (team.id, (TOKENS,))
    assert keys.update(new.id, team=None).team is None
    assert keys.update(new.id, budgets=lambda old: (*old, COST)).budgets == (TOKENS, COST)


def test_changes_of_two_budgets_at_the_same_time_are_both_kept(key_database: str) -> None:
    keys, _ = stores(key_database)
    record, _ = keys.create(name="a", scopes=["inference"])
    reading = threading.Event()

    def slowly(before: Budgets) -> Budgets:
        reading.set()
        other.join(0.2)
        return (*before, TOKENS)

    def meanwhile() -> None:
        reading.wait()
        stores(key_database)[0].update(record.id, budgets=lambda before: (*before, COST))

    other = threading.Thread(target=meanwhile)
    other.start()
    keys.update(record.id, budgets=slowly)
    other.join()
    (kept,) = keys.load()[1]
    assert kept.budgets == (TOKENS, COST)


def test_directory_gives_a_key_the_limits_of_its_team(key_database: str) -> None:
    keys, teams = stores(key_database)
    team = teams.create(name="a")
    _, key = keys.create(name="a", scopes=["inference"], team=team.id, budgets=[COST])
    directory = KeyDirectory(keys, poll_s=1, max_stale_s=600)
    assert directory.identify(key).budgets == (COST,)
    # A team that limits nothing costs nothing.
    assert directory.identify(key).team is None
    teams.update(
        team.id, limits={"requests_per_minute": 9, "tokens_per_minute": 0}, budgets=lambda _: (TOKENS,)
    )
    directory.refresh()
    found = directory.identify(key).team
    assert found is not None
    assert found.subject == f"team:{team.id}"
    assert found.limits == Limits(requests_per_minute=9, budgets=(TOKENS,))
