"""`serval config show`: every setting, its value and source; secrets are not shown."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from serval.settings import REREAD, Settings, load_settings, variable_of

_EXAMPLE = """
example:
  SERVAL_PORT=9000 serval config show
  serval config show --json | jq .port
"""

HIDDEN = "********"
# user:password@ in a URL.
_PASSWORD = re.compile(r"(?<=://)([^/@\s]*):[^/@\s]*@")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of `serval config`."""
    parser.epilog = _EXAMPLE
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="print every setting of the gateway and what it is now")
    show.add_argument("--json", action="store_true", help="one JSON object, name to value")


def run(args: argparse.Namespace) -> int:
    """Print the settings. Raises `SettingsError` for an invalid one."""
    settings = load_settings()
    if args.json:
        print(json.dumps({name: shown(getattr(settings, name)) for name in Settings.model_fields}, indent=2))
        return 0
    for name, field in Settings.model_fields.items():
        source = "set" if name in settings.model_fields_set else "default"
        when = "; in the settings file read again when it changes" if name in REREAD else ""
        print(f"{variable_of(name)} = {json.dumps(shown(getattr(settings, name)))}  ({source}{when})")
        print(f"    {field.description}")
    return 0


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
