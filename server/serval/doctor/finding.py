"""The result of one check of `serval doctor`."""

from dataclasses import dataclass
from typing import Literal

# `warning`: it works, but perhaps not as intended.
State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """The result of one check. `says` is the text shown to people."""

    check: str
    state: State
    says: str
