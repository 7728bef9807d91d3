"""Bytes of tokens: those of a text's tokens join to the text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serval.chat.tokenizer import load_tokenizer
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.model_folder import write_model_folder

TOKENIZER, FULL = load_tokenizer(DEMO_CHECKPOINT)


@given(text=st.text(max_size=30))
def test_token_bytes_join_to_the_text(text: str) -> None:
    parts = [TOKENIZER.token_bytes.of(token_id) for token_id in TOKENIZER.encode_text(text)]
    assert b"".join(part or b"" for part in parts) == text.encode()
    assert None not in parts


def test_token_bytes_of_every_token_agree_with_the_tokenizer() -> None:
    for token_id in range(TOKENIZER.vocabulary_size):
        data = TOKENIZER.token_bytes.of(token_id)
        assert data is not None
        assert data.decode(errors="replace") == FULL.decode([token_id], skip_special_tokens=False)


def test_token_bytes_of_unknown_ids_are_unknown() -> None:
    assert TOKENIZER.token_bytes.of(TOKENIZER.vocabulary_size) is None
    assert TOKENIZER.token_bytes.control_text(TOKENIZER.vocabulary_size) is None
    assert not TOKENIZER.token_bytes.is_special(TOKENIZER.vocabulary_size)


@pytest.mark.parametrize("special", [True, False])
def test_token_bytes_know_control_tokens(tmp_path: Path, special: bool) -> None:
    tokens = load_tokenizer(write_model_folder(tmp_path, special=special))[0].token_bytes
    assert tokens.control_text(9) == "<longcat_tool_call>"
    assert tokens.of(9) == b"<longcat_tool_call>"
    assert tokens.is_special(9) is special
    assert tokens.control_text(100) is None
