"""Types of arguments that several commands take."""

import argparse


def positive_int(text: str) -> int:
    """Parse an integer of at least 1, as an argparse type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


# argparse names the type in its message for text that is not a number.
positive_int.__name__ = "int"
