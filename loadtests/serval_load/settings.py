"""The environment of this process, which the programs that it starts inherit. Only this module reads it."""

import os
from collections.abc import Mapping


def environment_with(added: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program with these variables added or replaced."""
    return {**os.environ, **added}
