"""`serval doctor`: checks of everything that the gateway and the engine need."""

import argparse
import json
from pathlib import Path

from serval.cli.config import without_passwords
from serval.cli.gateway import add_engine_url, gateway_settings
from serval.doctor import Finding, findings

_EXAMPLE = """
Exit code 1 if a check fails; a warning is no failure. Settings are read as `serval gateway` reads them.

example:
  serval doctor --engine-url http://127.0.0.1:30000
  serval doctor --before-start --json | jq '.[] | select(.state == "failed")'
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `serval doctor`."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add_engine_url(parser)
    add("--settings-file", type=Path, metavar="FILE", help="settings in TOML, as for `gateway`")
    add("--before-start", action="store_true", help="do not ask the engine: it does not run yet")
    add("--json", action="store_true", help="one JSON array of {check, state, says}")


def run(args: argparse.Namespace) -> int:
    """Print the findings. Raises `SettingsError` for an invalid setting."""
    settings = gateway_settings(args)
    found = []
    for finding in findings(settings, with_engine=not args.before_start):
        found.append(finding)
        if not args.json:
            print(_line(finding), flush=True)
    if args.json:
        print(json.dumps([_object(finding) for finding in found], indent=2))
    return 1 if any(finding.state == "failed" for finding in found) else 0


def _line(finding: Finding) -> str:
    return f"{finding.state:<8} {finding.check:<18} {without_passwords(finding.says)}"


def _object(finding: Finding) -> dict[str, str]:
    return {"check": finding.check, "state": finding.state, "says": without_passwords(finding.says)}
