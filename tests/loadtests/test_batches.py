"""A small batch on two gateways of which one is killed, as whole programs: every line is answered once."""

from pathlib import Path

import pytest

from serval.caller.identity import INFERENCE
from serval.store.database import open_database
from serval.store.key_store import KeyStore
from serval_load.batches import FirstTokens, Lines
from serval_load.client import Peer
from serval_load.commands.batches import killed_batch
from serval_load.programs import ROOMY, running_gateway, running_stand_in

LINES = 300


async def test_every_line_is_answered_once_though_a_gateway_is_killed(tmp_path: Path) -> None:
    database = str(tmp_path / "keys.db")
    _, key = KeyStore(open_database(database)).create(name="a", scopes=[INFERENCE])
    environment = {
        "SERVAL_KEY_DATABASE": database,
        "SERVAL_BATCH_FOLDER": str(tmp_path / "files"),
        "SERVAL_BATCH_LEASE_S": "5",
    }
    async with (
        running_stand_in(*ROOMY) as (_, engine_url),
        running_gateway(engine_url, environment=environment) as (_, url),
    ):
        found = await killed_batch(Peer.of(url, key), engine_url, environment, lines=LINES, kills=1)
    assert found == Lines(LINES, completed=LINES, failed=0, missing=0, doubled=0, counted=LINES)
    assert found.every_line_once


@pytest.mark.parametrize(
    "found",
    [
        Lines(10, completed=9, failed=0, missing=1, doubled=0, counted=9),
        Lines(10, completed=10, failed=0, missing=1, doubled=1, counted=10),
        Lines(10, completed=9, failed=1, missing=0, doubled=0, counted=10),
        Lines(10, completed=10, failed=0, missing=0, doubled=0, counted=11),
    ],
)
def test_line_that_is_missing_doubled_or_failed_is_found(found: Lines) -> None:
    assert not found.every_line_once


def test_ratio_compares_the_slowest_first_tokens() -> None:
    assert FirstTokens(10, 1.0, 1.0, 10.0, 12.0, 5.0).p99_ratio == 1.2
