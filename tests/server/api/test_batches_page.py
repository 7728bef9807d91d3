"""The code of server/BATCHES.md, run against a gateway, and the defaults that the page names."""

import asyncio
import re
from pathlib import Path

import pytest

from serval.batches.input_file import MAX_LINE_BYTES
from serval.batches.verdict import MOST_ATTEMPTS
from serval.setting_names import variable_of
from serval.settings import Settings
from serval_testkit.gateway import API_KEY, running_gateway
from serval_testkit.repository import ROOT

PAGE = (ROOT / "server" / "BATCHES.md").read_text()
UNITS = {"": 1, " s": 1, " days": 86_400, " MiB": 1 << 20, " GiB": 1 << 30}


async def test_code_of_the_page_prints_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    async with running_gateway(
        served_model_name="longcat-flash-lite",
        key_database=str(tmp_path / "keys.db"),
        batch_folder=tmp_path / "files",
        batch_poll_s=0.05,
    ) as gateway:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{gateway.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
        await asyncio.to_thread(exec, code.replace("time.sleep(1)", "time.sleep(0.1)"), {})
    assert capsys.readouterr().out == "".join(f"{number} Hello world\n" for number in range(3))


def test_page_names_the_defaults() -> None:
    named = re.findall(r"`(SERVAL_BATCH_\w+)`[^.|]*?\(([\d,]+)( s| days| MiB| GiB|)\)", PAGE)
    assert len(named) >= 6
    defaults = {variable_of(name): field.default for name, field in Settings.model_fields.items()}
    for variable, number, unit in named:
        assert int(number.replace(",", "")) * UNITS[unit] == defaults[variable], variable
    assert f"{MAX_LINE_BYTES >> 20} MiB" in PAGE
    assert MOST_ATTEMPTS == 5
    assert "the fifth such error is its result" in PAGE
