"""Entry point ``serval`` of the group ``sglang.srt.plugins``: SGLang calls :func:`register` in each of its
processes."""

from __future__ import annotations


def register() -> None:
    """Put Serval's model in place of SGLang's own. Calling it again changes nothing.

    Raises:
        SystemExit: it could not. SGLang logs a plugin's exceptions and goes on with its own model, whose
        answers are wrong; this is the exception that it does not catch.
    """
    from serval_sglang.registration import install

    try:
        install()
    except Exception as error:
        raise SystemExit(f"serval: the SGLang plugin cannot take effect: {error}") from error
