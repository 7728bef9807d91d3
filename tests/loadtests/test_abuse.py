"""A few of the requests of `python -m serval_load abuse`, and a gateway with little memory."""

from dataclasses import replace

from serval_load.abuse.mix import kinds, total
from serval_load.abuse.run import abuse
from serval_load.abuse.tables import kinds_table, mix_table
from serval_load.programs import ROOT

NAMES = ("12 MB of English", "1 MB of brackets in a tool's schema", "tokenize: 12 MB of English")


async def test_gateway_outlives_abuse_and_no_stream_is_lost() -> None:
    mix = [replace(kind, count=2) for kind in kinds() if kind.name in NAMES]
    found = await abuse(ROOT, mix, limit_mib=512)
    assert found.ended is None
    assert found.noticed.streams > 0
    assert (found.noticed.streams_lost, found.noticed.prompts_lost) == (0, 0)
    assert {name: sum(answers.values()) for name, answers in found.answers.items()} == dict.fromkeys(NAMES, 2)
    assert found.memory_peak_mb < 512
    assert "held" in mix_table({"now": found})
    assert NAMES[0] in kinds_table({"now": {NAMES[0]: found}})


def test_mix_has_a_hundred_requests() -> None:
    assert total(kinds()) == 100
