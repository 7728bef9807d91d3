"""One engine as a list of engines names it: a URL, and options after semicolons.

http://new:30000;weight=5%;version=2026-12
"""

import re
from typing import Final

from msgspec import Struct

from serval.engine.weights import ORDINARY, Weight, parse_weight
from serval.errors import SettingsError

# A label of metrics, so short and without characters that need quoting.
_VERSION: Final = re.compile(r"[\w.+-]{1,64}", re.ASCII)


class ListedOptions(Struct, frozen=True):
    """Options of an engine in the list; an empty `version` is none."""

    weight: Weight = ORDINARY
    version: str = ""


def split_options(item: str) -> tuple[str, ListedOptions]:
    """Return the URL and the options of one engine of a list. Raises `SettingsError`."""
    url, *given = item.split(";")
    options: dict[str, Weight | str] = {}
    for option in given:
        name, _, value = option.partition("=")
        if name in options:
            raise SettingsError(f"the engine {item!r} has the option {name!r} twice; once is enough")
        if name == "weight":
            try:
                options[name] = parse_weight(value)
            except ValueError as error:
                raise SettingsError(f"engine {url!r}: {error}") from None
        elif name == "version":
            if not _VERSION.fullmatch(value):
                raise SettingsError(
                    f"the version {value[:80]!r} of the engine {url!r} cannot be used; it has 1 to 64"
                    " letters, digits and characters of '._+-'"
                )
            options[name] = value
        else:
            raise SettingsError(
                f"the engine {url!r} has the option {option[:80]!r}, which is not known; there are weight=5%"
                " and version=2026-12, each after a semicolon"
            )
    return url, ListedOptions(**options)  # type: ignore[arg-type]  # checked above
