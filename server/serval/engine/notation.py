"""Options of an engine in a list of engines, as in `http://new:30000;weight=5%;version=2026-12`."""

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
    url, *options = item.split(";")
    weight, version = ORDINARY, ""
    given: set[str] = set()
    for option in options:
        name, _, value = option.partition("=")
        if name in given:
            raise SettingsError(f"the engine {item!r} has the option {name!r} twice; once is enough")
        given.add(name)
        if name == "weight":
            weight = _weight(url, value)
        elif name == "version":
            version = _version(url, value)
        else:
            raise SettingsError(
                f"the engine {url!r} has the option {option[:80]!r}, which is not known; there are weight=5%"
                " and version=2026-12, each after a semicolon"
            )
    return url, ListedOptions(weight, version)


def _weight(url: str, value: str) -> Weight:
    try:
        return parse_weight(value)
    except ValueError as error:
        raise SettingsError(f"engine {url!r}: {error}") from None


def _version(url: str, value: str) -> str:
    if _VERSION.fullmatch(value):
        return value
    raise SettingsError(
        f"the version {value[:80]!r} of the engine {url!r} cannot be used; it has 1 to 64 letters, digits and"
        " characters of '._+-'"
    )
