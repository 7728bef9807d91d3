"""Grammars of callers stay out of the engine's log."""

import logging
from typing import Any

import pytest

from serval_sglang.plugin.grammar_logs import hide_grammars

XGRAMMAR = "sglang.srt.constrained.xgrammar_backend"


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("Hit invalid structural_tag: key_string='{\"secret\"}', e=RuntimeError('secret')", ()),
        ("Hit invalid %s: key_string=%r", ("regex", "secret")),
    ],
    ids=["formatted", "with arguments"],
)
def test_hide_grammars_leaves_them_out(
    caplog: pytest.LogCaptureFixture, message: str, arguments: tuple[Any, ...]
) -> None:
    hide_grammars()
    logging.getLogger(XGRAMMAR).error(message, *arguments)
    assert "secret" not in caplog.text
    assert "a grammar, which is not logged" in caplog.text


def test_hide_grammars_keeps_other_messages(caplog: pytest.LogCaptureFixture) -> None:
    hide_grammars()
    logging.getLogger(XGRAMMAR).error("Failed to load %s", "the tokenizer")
    assert "Failed to load the tokenizer" in caplog.text
