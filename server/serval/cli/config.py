"""`serval config show`: every setting, its value and source; secrets are not shown."""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from serval.setting_names import sections, variable_of
from serval.settings import REREAD, Settings, load_settings, setting_sources, unknown_variables

_EXAMPLE = """
examples:
  SERVAL_PORT=9000 serval config show
  serval config show --settings-file serval.toml
  serval config show --json | jq .port
"""

HIDDEN = "********"
# user:password@ in a URL.
_PASSWORD = re.compile(r"(?<=://)([^/@\s]*):[^/@\s]*@")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `serval config`."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser(
        "show",
        help="print every setting of the gateway and what it is now",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    show.add_argument("--settings-file", type=Path, metavar="FILE", help="settings in TOML, as for `gateway`")
    show.add_argument("--json", action="store_true", help="one JSON object, name to value")


def run(args: argparse.Namespace) -> int:
    """Print the settings. Raises `SettingsError` for an invalid one."""
    warn_of_unknown_variables("config")
    settings = load_settings(settings_file=args.settings_file)
    if args.json:
        print(json.dumps({name: shown(getattr(settings, name)) for name in Settings.model_fields}, indent=2))
        return 0
    sources = setting_sources(args.settings_file)
    for title, names in sections(Settings.model_fields).items():
        print(f"{title}\n")
        for name in names:
            live = "; read again when it changes" if name in REREAD and settings.settings_file else ""
            value = json.dumps(shown(getattr(settings, name)))
            print(f"{variable_of(name)} = {value}  ({sources[name]}{live})")
            print(f"    {Settings.model_fields[name].description}")
        print()
    return 0


def warn_of_unknown_variables(command: str) -> None:
    """Name variables `SERVAL_*` that nothing reads, on standard error."""
    for problem in unknown_variables().values():
        print(f"serval {command}: warning: {problem}", file=sys.stderr, flush=True)


def shown(value: Any) -> Any:
    """The value in a form that may be printed as JSON, without secrets and passwords in URLs."""
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return without_passwords(value)
    return value


def without_passwords(text: str) -> str:
    """The text with passwords in URLs hidden."""
    return _PASSWORD.sub(rf"\1:{HIDDEN}@", text)
