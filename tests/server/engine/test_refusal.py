"""Failures of the engine: which status they get, and which of the engine's texts a client may read."""

import logging

import pytest

from serval.engine.refusal import engine_error, error_message

SECRET = "SECRET internal /opt/engine/x.py line 3"
LENGTH = "of tokens in the input messages or the completion to fit within the limit."


@pytest.mark.parametrize(
    ("status", "answered", "code"),
    [
        (400, 400, "invalid_value"),
        (413, 400, "invalid_value"),
        (422, 400, "invalid_value"),
        (429, 503, "server_is_overloaded"),
        (503, 503, "server_is_overloaded"),
        (None, 503, "engine_aborted"),
        *(
            (status, 500, "engine_failure")
            for status in (401, 403, 404, 405, 408, 418, 499, 500, 502, 504, 0)
        ),
    ],
)
def test_engine_error_keeps_the_text_to_itself(
    status: int | None, answered: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = engine_error(status, SECRET, request_id="chatcmpl-1")
    assert (error.status, error.code) == (answered, code)
    assert "SECRET" not in error.message
    assert "/" not in error.message
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    # Texts of the engine may quote what a caller sent, which no log line holds.
    assert "SECRET" not in record.getMessage()
    assert "chatcmpl-1" in record.getMessage()
    assert ("retry-after" in error.headers) == (code == "server_is_overloaded")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "logit_bias must has keys in [0, 131071], got 200000.",
            "The keys of `logit_bias` must be token ids from 0 to 131071.",
        ),
        (
            "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
            "The prompt of 9000 tokens is longer than the context of 8192 tokens.",
        ),
        (
            "Input length (8100 tokens) exceeds the maximum allowed length (8000 tokens)."
            " Use a shorter input or enable --allow-auto-truncate.",
            "The prompt of 8100 tokens is longer than the engine's limit of 8000 tokens.",
        ),
        (
            "Requested token count exceeds the model's maximum context length of 8192 tokens. You requested a"
            " total of 9000 tokens: 8000 tokens from the input messages and 1000 tokens for the completion."
            f" Please reduce the number {LENGTH}",
            "Prompt and completion of 9000 tokens are longer than the context of 8192 tokens.",
        ),
        (
            f"Failed to compile structural_tag grammar: [08:12:41] /project/cpp/x.cc:3389: {SECRET}",
            "The engine cannot compile the grammar that this request asks for with its strict tools,"
            " `response_format`, `regex` or `ebnf`.",
        ),
        *(
            (
                "Failed to compile structural_tag grammar: [08:12:41] /project/cpp/grammar_parser.cc:820:"
                f" {text}\n",
                f"The engine cannot compile the grammar of this request: {text}",
            )
            for text in (
                'EBNF parser error at line 1, column 10: Rule "foo" is not defined',
                "EBNF lexer error at line 12, column 1: Invalid escape sequence",
                "Regex parsing error at position 3: The parenthesis is not closed.",
            )
        ),
        (
            "Failed to compile structural_tag grammar: [08:12:41] /x.cc:1: EBNF parser error at line 1,"
            " column 2: in /opt/engine/x.py",
            "The engine cannot compile the grammar that this request asks for with its strict tools,"
            " `response_format`, `regex` or `ebnf`.",
        ),
    ],
)
def test_engine_error_says_what_the_caller_can_change(said: str, told: str) -> None:
    assert engine_error(400, said, request_id="r").message == told
    # Not even these texts are told if something else comes first.
    assert engine_error(400, f"{SECRET}: {said}", request_id="r").message.startswith("The engine refused")


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "why"}}',
        b'{"error": "why"}',
        b'{"object": "error", "message": "why"}',
        b'{"detail": "why"}',
    ],
)
def test_error_message_reads_every_shape_of_error(body: bytes) -> None:
    assert error_message(body) == "why"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b"\xff", b'{"error": {"message": 3}}'])
def test_error_without_a_message_is_an_error(body: bytes) -> None:
    assert "no readable reason" in error_message(body)
