"""Keeping grammars out of the engine's log: a tool's schema may hold text of a caller."""

import logging
from typing import Final

# Logger of the module that logs a grammar, as `key_string=`, where it does not compile.
_LOGGER: Final = "sglang.srt.constrained.xgrammar_backend"
_GRAMMAR: Final = "key_string="


def hide_grammars() -> None:
    """Leave grammars out of SGLang's messages. Calling it again changes nothing."""
    logging.getLogger(_LOGGER).addFilter(_without_grammar)


def _without_grammar(record: logging.LogRecord) -> bool:
    """Cut the message where the grammar begins; the compiler's error after it may quote the grammar too."""
    before, found, _ = record.getMessage().partition(_GRAMMAR)
    if found:
        record.msg, record.args = f"{before}a grammar, which is not logged", ()
    return True
