"""The engines that a gateway may use: a list of URLs, ranges, names in DNS, or a file that is read live.

    http://engine-0:30000,http://engine-1:30000      a list
    http://engine-{0..7}.engines:30000               a range; a name that does not exist is simply not there
    dns+http://engines:30000                         every address of the name, asked for again and again
    pd+http://p-{0..3}:30000|http://d-{0..3}:30000   pairs (`pair_url`), whose ranges run in step

Each may have options, such as `;weight=5%` (see `notation`).
The file has the same forms, separated by commas or white space; `#` starts a comment.
"""

import asyncio
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from serval.engine.connection import peer_of
from serval.engine.notation import ListedOptions, split_options
from serval.engine.pair_url import MARK, is_pair, pair_of
from serval.engine.weights import check_shares
from serval.errors import SettingsError

logger = logging.getLogger(__name__)

DNS_EVERY_S: Final = 5.0
# More engines than this are a mistake in a range.
MOST_ENGINES: Final = 1024
_DNS: Final = "dns+"
_RANGE: Final = re.compile(r"\{(\d{1,6})\.\.(\d{1,6})\}")


class FoundEngine(Struct, frozen=True):
    """An engine's URL, and its name in metrics and messages, of which there is a bounded number."""

    name: str
    url: str
    options: ListedOptions = ListedOptions()


# Returns the addresses of a host. Raises `OSError`.
Lookup = Callable[[str], Awaitable[Sequence[str]]]


def is_single(text: str) -> bool:
    """Return True if the setting names one engine by its URL, and nothing else about it."""
    return not any(mark in text for mark in (",", "{", "|", ";", _DNS, MARK)) and len(text.split()) == 1


def expand(text: str) -> list[str]:
    """Return the items of the setting, with ranges written out. Raises `SettingsError`."""
    items: list[str] = []
    for item in re.split(r"[,\s]+", text):
        if item:
            url, mark, options = item.partition(";")
            several = is_pair(url) or "|" in url
            urls = _expand_in_step(url) if several else _expand_ranges(url)
            items += [f"{expanded}{mark}{options}" for expanded in urls]
        if len(items) > MOST_ENGINES:
            raise SettingsError(
                f"more than {MOST_ENGINES} engines are named; check the ranges of {text[:80]!r}"
            )
    named = dict(map(split_options, items))
    try:
        check_shares([options.weight for options in named.values()])
    except ValueError as error:
        raise SettingsError(str(error)) from None
    for url in named:
        if is_pair(url):
            continue
        if url.startswith(f"{_DNS}https"):
            raise SettingsError(
                f"{url!r} would be asked by address, which no certificate names; list the engines"
            )
        peer_of(url.removeprefix(_DNS), api_key=None, connect_timeout_s=1, stall_timeout_s=1)
    return items


def _expand_ranges(item: str) -> Iterable[str]:
    found = _RANGE.search(item)
    if found is None:
        if "{" in item or "}" in item:
            raise SettingsError(f"the engine's URL {item!r} has braces; a range has the form {{0..7}}")
        return [item]
    first, last = int(found[1]), int(found[2])
    if last < first or last - first >= MOST_ENGINES:
        raise SettingsError(
            f"the range {found[0]} of {item!r} must run upwards, to at most {MOST_ENGINES} engines"
        )
    before, after = item[: found.start()], item[found.end() :]
    return [url for number in range(first, last + 1) for url in _expand_ranges(f"{before}{number}{after}")]


def _expand_in_step(item: str) -> Iterable[str]:
    """Return the pairs in their one written form: the first numbers of all ranges, then the second ones."""
    columns = [list(_expand_ranges(found[0])) for found in _RANGE.finditer(item)]
    if len({len(column) for column in columns}) > 1:
        raise SettingsError(f"the ranges of the pair of engines {item!r} must be equally long")
    for row in zip(*columns, strict=True) if columns else [()]:
        numbers = iter(row)
        filled = _RANGE.sub(lambda _, numbers=numbers: next(numbers), item)  # type: ignore[misc]
        # No range is left in it; braces that are none are refused.
        for text in _expand_ranges(filled):
            yield pair_of(text).text


async def addresses_of(host: str) -> Sequence[str]:
    """Return the addresses of a host, sorted. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return sorted({str(address[0]) for *_, address in found})


class Discovery:
    """Engines named by `urls` or, if there is one, by `file`. Call `look` again and again."""

    def __init__(
        self,
        urls: str,
        file: Path | None = None,
        *,
        lookup: Lookup = addresses_of,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `SettingsError` if the URLs, or the file as it is now, cannot be used."""
        self._file = file
        self._lookup = lookup
        self._now = now
        self._text = urls if file is None else _read(file)
        self._items = expand(self._text)
        if file is None and not self._items:
            raise SettingsError("no engine is named; set SERVAL_ENGINE_URL or --engine-url")
        # By name in DNS: when it was asked for, and the numbers of its addresses.
        self._asked: dict[str, float] = {}
        self._numbers: dict[str, dict[str, int]] = {}
        # Complaints, each of which is logged once.
        self._said: set[str] = set()

    async def look(self) -> list[FoundEngine]:
        """Return the engines as they are named now. A source that cannot be read stays as it was."""
        if self._file is not None:
            await self._read_again(self._file)
        found: dict[str, FoundEngine] = {}
        for url, options in map(split_options, self._items):
            for engine in await self._resolved(url) if url.startswith(_DNS) else [_named(url)]:
                if engine.url in found:
                    self._say(f"the engine {engine.url} is named twice; once is enough")
                found.setdefault(engine.url, replace(engine, options=options))
        return list(found.values())

    async def _read_again(self, file: Path) -> None:
        try:
            text = await asyncio.to_thread(_read, file)
            items = self._items if text == self._text else expand(text)
        except SettingsError as error:
            self._say(f"the engines stay as they were: {error}")
            return
        if text != self._text:
            logger.info("engines read again from %s: %d", file, len(items))
            self._text, self._items = text, items
            self._said.clear()

    async def _resolved(self, url: str) -> list[FoundEngine]:
        """Return an engine for each address of the name. Each keeps its number while it is there."""
        plain = url.removeprefix(_DNS)
        parts = urlsplit(plain)
        host = parts.hostname or ""
        numbers = self._numbers.setdefault(url, {})
        if self._now() - self._asked.get(url, float("-inf")) >= DNS_EVERY_S:
            self._asked[url] = self._now()
            try:
                addresses = await self._lookup(host)
            except (OSError, UnicodeError) as error:
                self._say(f"the addresses of {host} stay as they were: {error}")
            else:
                for address in numbers.keys() - set(addresses):
                    del numbers[address]
                for address in addresses:
                    numbers.setdefault(address, _lowest_free(numbers.values()))
        return [
            FoundEngine(
                f"{_named(plain).name}/{number}",
                parts._replace(netloc=_netloc(address, parts.port)).geturl(),
            )
            for address, number in numbers.items()
        ]

    def _say(self, complaint: str) -> None:
        if complaint not in self._said:
            self._said.add(complaint)
            logger.warning("%s", complaint)


def _named(url: str) -> FoundEngine:
    if is_pair(url):
        return FoundEngine(pair_of(url).name, url)
    parts = urlsplit(url)
    return FoundEngine(f"{parts.netloc}{parts.path.rstrip('/')}", url.rstrip("/"))


def _netloc(address: str, port: int | None) -> str:
    host = f"[{address}]" if ":" in address else address
    return host if port is None else f"{host}:{port}"


def _lowest_free(taken: Iterable[int]) -> int:
    used = set(taken)
    return next(number for number in range(len(used) + 1) if number not in used)


def _read(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the file of engines {str(file)!r} cannot be read: {error}") from error
    return " ".join(line.partition("#")[0] for line in lines)
