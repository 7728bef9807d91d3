"""The demo model: a small LongCat checkpoint that answers a few questions and calls a few tools."""

from pathlib import Path


def checkpoint_directory() -> Path:
    """Return the shipped checkpoint: configuration, weights, tokenizer, template, sampling defaults."""
    return Path(__file__).parent / "checkpoint"
