"""`serval gateway`: the OpenAI-compatible gateway in front of a running engine."""

import argparse
from pathlib import Path
from typing import Any

from serval.auth.keys import ensure_key
from serval.cli.config import warn_of_unknown_variables
from serval.process.startup import print_progress
from serval.settings import Settings, default_text, load_settings
from serval.telemetry.logs import configure_logging

_EXAMPLE = """
example:
  SERVAL_API_KEY=sk-... serval gateway --engine-url http://127.0.0.1:30000 --port 8000
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `serval gateway`. Each overrides its variable, SERVAL_<NAME>."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add_engine_url(parser)
    add(
        "--model", type=Path, metavar="DIR", help="folder with tokenizer and template (default: the engine's)"
    )
    add("--served-model-name", metavar="NAME", help="name clients use (default: the folder's name)")
    add_gateway_arguments(parser)
    add("--check", action="store_true", help="find mistakes in settings and files, serve nothing, and exit")


def add_engine_url(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the engine, or several."""
    parser.add_argument(
        "--engine-url",
        metavar="URL",
        action=_Joined,
        help="the SGLang engine; several: given again, or with commas, or http://engine-{0..7}:30000"
        f" (default {default_text('engine_url')})",
    )


class _Joined(argparse.Action):
    """An option whose values are joined by commas if it is given again."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is None else f"{before},{values}")


def add_gateway_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `serval serve` shares."""
    add = parser.add_argument
    add("--host", help=f"address the gateway listens on (default {default_text('host')})")
    port_help = f"port the gateway listens on; 0 picks a free one (default {default_text('port')})"
    add("--port", type=int, help=port_help)
    add("--workers", type=int, metavar="N", help=f"processes that serve (default {default_text('workers')})")
    add(
        "--settings-file",
        type=Path,
        metavar="FILE",
        help="settings in TOML, by the names of `serval config show` in lower case without SERVAL_",
    )
    add(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="accepted API keys, one a line (or one key in SERVAL_API_KEY)",
    )
    add(
        "--engine-timeout",
        dest="engine_timeout_s",
        type=float,
        metavar="SECONDS",
        help=f"how long to wait for the engine to load (default {default_text('engine_timeout_s')})",
    )


def gateway_settings(args: argparse.Namespace, **overrides: Any) -> Settings:
    """Settings from the options and the environment; `overrides` take precedence, then options."""
    given = {name: getattr(args, name) for name in _OPTIONS if hasattr(args, name)} | overrides
    settings = load_settings(**given)
    if given.get("engine_url") is not None:
        # The file of engines would win over a URL that is named here.
        return settings.model_copy(update={"engines_file": None})
    return settings


_OPTIONS = (
    "engine_url",
    "engine_timeout_s",
    "model",
    "served_model_name",
    "host",
    "port",
    "workers",
    "settings_file",
    "api_key_file",
)


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    warn_of_unknown_variables("gateway")
    if args.check:
        # Imported here: the parent of workers must not load the modules that serve.
        from serval.process.preparation import check

        check(gateway_settings(args))
        print_progress("no mistakes found")
        return 0
    settings, made_key = ensure_key(gateway_settings(args))
    if made_key is not None:
        print_progress(f"neither SERVAL_API_KEY nor --api-key-file is set; this start's API key: {made_key}")
    configure_logging(settings.log_level)
    if settings.workers > 1:
        # Imported here: the parent of workers must not load the modules that serve.
        from serval.process.pool import run_workers

        run_workers(settings)
    else:
        from serval.process.gateway import run_gateway

        run_gateway(settings)
    print_progress("stopped")
    return 0
