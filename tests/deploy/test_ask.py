"""Script of `helm test`, run against a local gateway."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from serval_testkit.chart import CHART
from serval_testkit.gateway import API_KEY, MODEL, running_gateway


@pytest.mark.parametrize(("key", "code"), [(API_KEY, 0), ("wrong", 1)])
async def test_ask_requests_one_token_with_the_first_key(key: str, code: int, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# of the operator\n\n{key}\nsk-another\n")
    async with running_gateway() as gateway:
        gateway.engine.will_say("a")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            CHART / "files/ask.py",
            env={**os.environ, "URL": f"{gateway.url}/v1", "MODEL": MODEL, "KEYS": str(keys)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, errors = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == code, errors.decode()
    assert (b'"completion_tokens": 1' in printed) == (code == 0)
