"""`serval usage verify`: compare the usage with the budgets' counts, and with the engines' counters."""

import argparse
import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import msgspec

from serval.caller.budgets import Used, amount_text
from serval.caller.identity import TEAM
from serval.caller.limits import default_limits, in_force
from serval.errors import SettingsError
from serval.settings import Settings, load_settings
from serval.store.factory import open_store

if TYPE_CHECKING:
    from serval.store.key_store import KeyStore
    from serval.usage.verification import Comparison, EngineComparison, Snapshot, Tokens

_DAY_S: Final = 86_400
_TIMEOUT_S: Final = 10.0
# Without `--since`: today and yesterday.
_DAYS: Final = 2
_WORDS: Final = {
    "held": "held: not more than what requests hold that run, or that a kill ended",
    "differs": "differs: a kill, a Redis without its data, or a budget that was set later",
}


def run(args: argparse.Namespace) -> int:
    """Print every difference; return 1 if there is one beyond what reservations hold."""
    from sqlalchemy.exc import SQLAlchemyError

    from serval.store.database import reason_of

    settings = load_settings(key_database=args.database)
    store = open_store(settings)
    try:
        comparisons = _comparisons(args, settings, store)
        engines = _compare_engines(args, store) if args.engine else None
    except SQLAlchemyError as error:
        raise SettingsError(f"the key database failed: {reason_of(error)}") from None
    _print(args, store, comparisons)
    differs = any(each.verdict == "differs" for each in comparisons)
    if engines is not None:
        _print_engines(args, engines)
        differs = differs or not engines.agrees
    return int(differs)


def _comparisons(args: argparse.Namespace, settings: Settings, store: "KeyStore") -> "list[Comparison]":
    from serval.store.usage import UsageTable
    from serval.usage.verification import compared, usage_by_day

    now = time.time()
    first = int(now // _DAY_S) - _DAYS + 1 if args.since is None else int(args.since // _DAY_S)
    end = int(-(-(now if args.until is None else args.until) // _DAY_S))
    counted = {
        place: used
        for place, used in _counted(settings, store, first, end).items()
        if first <= place[1] < end
    }
    if args.key is not None:
        counted = {place: used for place, used in counted.items() if place[0] == args.key}
    usage = usage_by_day(UsageTable(store.engine), first, end)
    budgeted = [each for each in _budgeted(settings, store) if args.key in {None, each}]
    return compared(usage, counted, budgeted)


def _counted(settings: Settings, store: "KeyStore", first: int, end: int) -> Mapping[tuple[str, int], Used]:
    """The budgets' counts, from where the gateways with these settings keep them. Raises `SettingsError`."""
    if settings.limits_url is None:
        from serval.store.daily_tokens import DailyTokens

        return DailyTokens(store.engine).load(first, end - 1)
    from redis.exceptions import RedisError

    from serval.limits.factory import require_redis
    from serval.limits.redis_limiter import open_redis
    from serval.limits.redis_use import use_in_redis

    require_redis()
    url = settings.limits_url.get_secret_value()

    async def read() -> Mapping[tuple[str, int], Used]:
        async with open_redis(url, timeout_s=_TIMEOUT_S) as redis:
            return await use_in_redis(redis)

    try:
        return asyncio.run(read())
    except (RedisError, OSError) as error:
        raise SettingsError(f"the Redis of SERVAL_LIMITS_URL failed: {type(error).__name__}") from None


def _budgeted(settings: Settings, store: "KeyStore") -> Sequence[str]:
    """Subjects of the keys and teams that have a budget now."""
    from serval.store.teams import TeamStore

    defaults = default_limits(settings)
    keys = [key.id for key in store.load()[1] if in_force(key.limits, defaults, key.budgets).counted]
    teams = [team for team in TeamStore(store.engine).load() if team.budgets or team.limits.tokens_per_day]
    return keys + [TEAM + team.id for team in teams]


def _compare_engines(args: argparse.Namespace, store: "KeyStore") -> "EngineComparison | None":
    """Compare with the snapshot and replace it; None if this is the first. Raises `SettingsError`."""
    from serval.store.usage import UsageTable
    from serval.usage.verification import Snapshot, compared_engines, usage_totals

    if args.snapshot is None:
        raise SettingsError("--engine needs --snapshot FILE, where the counters are kept until the next time")
    file: Path = args.snapshot
    counters = asyncio.run(_engine_counters(args.engine))
    after = Snapshot(time.time(), usage_totals(UsageTable(store.engine)), counters)
    before = _read_snapshot(file)
    file.write_bytes(msgspec.json.encode(after) + b"\n")
    return None if before is None else compared_engines(before, after)


def _read_snapshot(file: Path) -> "Snapshot | None":
    from serval.usage.verification import Snapshot

    try:
        return msgspec.json.decode(file.read_bytes(), type=Snapshot)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(f"cannot use the snapshot {str(file)!r}: {error}") from None


async def _engine_counters(urls: Sequence[str]) -> "dict[str, Tokens]":
    from serval.usage.verification import engine_tokens

    found = {}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for url in urls:
            try:
                async with session.get(f"{url.rstrip('/')}/metrics") as response:
                    response.raise_for_status()
                    found[url] = engine_tokens(await response.text())
            except (aiohttp.ClientError, TimeoutError) as error:
                raise SettingsError(f"the engine {url} has no metrics: {type(error).__name__}") from None
    return found


def _print(args: argparse.Namespace, store: "KeyStore", comparisons: "list[Comparison]") -> None:
    if args.json:
        for each in comparisons:
            print(json.dumps(_as_object(each)))
        return
    from serval.cli.key_table import aligned, printable
    from serval.store.teams import TeamStore

    names = {key.id: key.name for key in store.load()[1]}
    names |= {TEAM + team.id: team.name for team in TeamStore(store.engine).load()}
    shown = [each for each in comparisons if each.verdict != "agrees"]
    rows = [
        (
            _date(each.day),
            printable(each.subject),
            printable(names.get(each.subject, "")),
            each.unit,
            *(amount_text(each.unit, amount) for amount in (each.usage, each.settled, each.held)),
            _WORDS[each.verdict],
        )
        for each in shown
    ]
    if rows:
        print(aligned([("DAY", "KEY", "NAME", "UNIT", "USAGE", "BUDGET", "HELD", ""), *rows]))
    print(f"{len(comparisons)} sums of usage and budgets compared, {len(comparisons) - len(shown)} agree")


def _print_engines(args: argparse.Namespace, found: "EngineComparison") -> None:
    rows = (("prompt", found.usage.prompt, found.engines.prompt),
            ("completion", found.usage.completion, found.engines.completion))  # fmt: skip
    if args.json:
        print(json.dumps({"engines": msgspec.to_builtins(found._asdict()), "agrees": found.agrees}))
        return
    for kind, usage, engines in rows:
        told = "agree" if usage == engines else f"differ by {engines - usage}"
        print(f"{kind} tokens since the snapshot: usage {usage}, engines {engines}: they {told}")
    for url in found.restarted:
        print(f"{url} was restarted or left out, so its count is not whole")


def _as_object(each: "Comparison") -> dict[str, Any]:
    amounts = {name: getattr(each, name) for name in ("usage", "settled", "held", "difference")}
    if each.unit == "cost":
        amounts = {name: amount_text(each.unit, amount) for name, amount in amounts.items()}
    return {
        "day": _date(each.day),
        "key": each.subject,
        "unit": each.unit,
        **amounts,
        "verdict": each.verdict,
    }


def _date(day: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(day * _DAY_S))
