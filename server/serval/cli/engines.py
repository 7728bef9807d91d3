"""`serval engines`: list, drain and weigh the engines behind running gateways, through the admin API."""

import argparse
import asyncio
import json
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from serval.cli.key_table import aligned
from serval.errors import ServalError, SettingsError
from serval.settings import Settings, load_settings

_EXAMPLE = """
example:
  export SERVAL_ADMIN_PORT=8002 SERVAL_ADMIN_KEY=...    # as the gateway has them
  serval engines list
  serval engines weight new:30000 5%       # 5 % of the conversations that begin now
  serval engines weight new:30000 listed   # as the list of engines says
  serval engines drain old:30000           # no more requests; those it has may end
  serval engines undrain old:30000

All gateways with the same SERVAL_KEY_DATABASE follow in less than a second, and after a restart.
"""
_TIMEOUT_S: Final = 15.0
_HEAD: Final = ("NAME", "STATE", "VERSION", "WEIGHT", "SHARE", "RUNNING", "WAITING")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `serval engines`."""
    parser.epilog = _EXAMPLE
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--admin-url", metavar="URL", help="a gateway's admin API (default: this machine's SERVAL_ADMIN_PORT)"
    )
    shared.add_argument("--json", action="store_true", help="one JSON object a line")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="show all engines, their states and weights", parents=[shared])
    drain = actions.add_parser("drain", help="send an engine no more requests", parents=[shared])
    drain.add_argument("name", help="the engine's name in the list")
    drain.add_argument("--force", action="store_true", help="even if no other engine is ready")
    undrain = actions.add_parser("undrain", help="send an engine requests again", parents=[shared])
    undrain.add_argument("name", help="the engine's name in the list")
    weight = actions.add_parser("weight", help="give an engine its share of conversations", parents=[shared])
    weight.add_argument("name", help="the engine's name in the list")
    weight.add_argument(
        "weight", help="a share such as 5%%, a number beside the 1 of an ordinary engine, or 'listed'"
    )


def run(args: argparse.Namespace) -> int:
    """Run one action. Raises a `ServalError`."""
    settings = load_settings()
    url = f"{_admin_url(args.admin_url, settings)}/admin/engines"
    if args.action == "list":
        entries = asyncio.run(_answer("GET", url, settings))["data"]
    else:
        body: dict[str, Any] = {}
        if args.action == "drain":
            body["force"] = args.force
        elif args.action == "weight":
            body["weight"] = args.weight
        target = f"{url}/{quote(args.name)}/{args.action}"
        entries = [asyncio.run(_answer("POST", target, settings, body))]
    if args.json:
        for entry in entries:
            print(json.dumps(entry))
    else:
        print(aligned([_HEAD, *map(_row, entries)]))
    return 0


def _admin_url(given: str | None, settings: Settings) -> str:
    if given is not None:
        return given.rstrip("/")
    if not settings.admin_port:
        raise SettingsError(
            "where the admin API is, is not known: set SERVAL_ADMIN_PORT as the gateway has it, or give"
            " --admin-url http://HOST:PORT"
        )
    host = f"[{settings.admin_host}]" if ":" in settings.admin_host else settings.admin_host
    return f"http://{host}:{settings.admin_port}"


async def _answer(method: str, url: str, settings: Settings, body: dict[str, Any] | None = None) -> Any:
    """Return the answer of the admin API. Raises `ServalError` with its message, or if there is none."""
    if settings.admin_key is None:
        raise SettingsError("no key: set SERVAL_ADMIN_KEY to a key that the admin API accepts")
    headers = {"authorization": f"Bearer {settings.admin_key.get_secret_value().strip()}"}
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
            session.request(method, url, json=body) as response,
        ):
            answer = await response.json(content_type=None)
            if response.status == 200:
                return answer
            raise ServalError(str(answer["error"]["message"]))
    except (aiohttp.ClientError, TimeoutError) as error:
        raise ServalError(
            f"the admin API at {url} cannot be asked: {error or type(error).__name__}"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise ServalError(f"{url} is not Serval's admin API; check --admin-url") from None


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    is_listed = entry["weight"] == entry["listed_weight"]
    return (
        entry["name"],
        f"{entry['state']} (by order)" if entry["drained"] else entry["state"],
        entry["version"] or "-",
        entry["weight"] if is_listed else f"{entry['weight']} (listed: {entry['listed_weight']})",
        f"{entry['share']:.1%}",
        str(entry["running"]),
        str(entry["waiting"]),
    )
