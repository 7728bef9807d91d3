"""TRANSFORMERS.md's program on the demo model."""

import re

import pytest

from serval_sglang.options import DEMO_MODEL
from serval_testkit.repository import ROOT


def test_program_of_the_page_answers(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "model_adapter" / "TRANSFORMERS.md").read_text(encoding="utf-8")
    first = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    program = re.sub(r"^MODEL = .*$", f"MODEL = {str(DEMO_MODEL)!r}", first, flags=re.MULTILINE)
    assert program != first
    exec(program, {})  # noqa: S102  # the page's own
    assert "server" in capsys.readouterr().out
