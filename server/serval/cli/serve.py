"""`serval serve`: engines and gateway together, shown in stages on a terminal, else by their logs.

Without a terminal one line on standard output announces that all are ready.
"""

import argparse
import asyncio
import contextlib
import json
import random
import shlex
import socket
import sys
from collections.abc import Sequence

import aiohttp

from serval.auth.keys import ensure_key
from serval.cli.config import warn_of_unknown_variables
from serval.cli.console_link import with_console
from serval.cli.gateway import add_gateway_arguments, gateway_settings
from serval.process.checks import require_no_mistakes
from serval.process.child import ProcessSpec, python_command
from serval.process.engine_package import (
    EngineOptions,
    add_model_arguments,
    add_sglang_flags,
    engine_check_command,
    engine_command,
    engine_options,
)
from serval.process.stack import StackSpec, run_stack
from serval.settings import API_KEY_VARIABLE, Settings, child_environment

_GATEWAY_STOP_MARGIN_S = 5.0
_MOST_REPLICAS = 64

EXAMPLE = """\
examples:
  serval serve                                   the demo model; on the CPU if there is no GPU
  serval serve --model /models/LongCat-Flash-Lite --tp 2 --ep 2 \\
      -- --chunked-prefill-size 4096 --context-length 131072
                                                 two GPUs of 80 GB; `serval plan` computes what fits
  serval serve --model /models/LongCat-Flash-Lite --tp 2 --ep 2 --replicas 4 \\
      -- --chunked-prefill-size 4096 --context-length 131072
                                                 four engines on eight GPUs behind one gateway

Flags after -- go to SGLang as they are.

SERVAL_API_KEY in the environment fixes the API key; without one a key is made and shown.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `serval serve`: those of `engine` and of `gateway`."""
    parser.epilog = EXAMPLE
    add_model_arguments(parser)
    add_gateway_arguments(parser)
    parser.add_argument(
        "--replicas",
        type=_replicas,
        default=1,
        metavar="N",
        help="engines behind the gateway, each with its part of this machine's GPUs or CPUs (default 1)",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="print the logs of engine and gateway, also on a terminal"
    )
    parser.add_argument(
        "--console",
        dest="console_link",
        action="store_true",
        help="serve the console too, pages for a browser, and print a link that signs in once",
    )
    parser.add_argument("--check", action="store_true", help="find mistakes, start nothing, and exit")
    add_sglang_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Run them until a signal (returns 0) or until one of them fails (raises `StackError`).

    Mistakes that would end the start raise `StackError` before anything is started.
    """
    warn_of_unknown_variables("serve")
    engines = _engines(args)
    engine = engines[0]
    settings, made_key = ensure_key(
        gateway_settings(
            args,
            engine_url=",".join(map(_url_of, engines)),
            model=engine.model,
            served_model_name=engine.served_model_name,
        )
    )
    if settings.port == 0:
        settings = settings.model_copy(update={"port": _free_port()})
    console = None
    if args.console_link:
        settings, console = with_console(settings, free_port=_free_port())
    require_no_mistakes(_checks(engine, settings))
    if args.check:
        print("serval serve: no mistakes found", file=sys.stderr)
        return 0
    stack = _stack(engines, settings)
    if args.verbose or not sys.stdout.isatty():
        asyncio.run(
            run_stack(stack, on_ready=lambda: _print_ready_line(engines, settings, made_key, console))
        )
        print("serval serve: stopped", file=sys.stderr, flush=True)
        return 0
    return _run_on_terminal(stack, engines, settings, made_key, console)


async def _print_ready_line(
    engines: Sequence[EngineOptions], settings: Settings, made_key: str | None, console: str | None
) -> None:
    device = await _engine_device(engines[0], settings)
    number = f"engines={len(engines)} " if len(engines) > 1 else ""
    print(
        f"serval ready: url={settings.public_url}/v1 model={engines[0].served_model_name} "
        f"device={device} {number}key={_shown_key(settings, made_key)}"
        + ("" if console is None else f" console={console}"),
        flush=True,
    )


def _run_on_terminal(
    stack: StackSpec,
    engines: Sequence[EngineOptions],
    settings: Settings,
    made_key: str | None,
    console: str | None,
) -> int:
    # Imported here: only a terminal needs it.
    from serval.terminal.screen import opened_screen

    engine = engines[0]

    async def announce() -> None:
        device = await _engine_device(engine, settings)
        where = device if len(engines) == 1 else f"{len(engines)} engines ({device})"
        screen.ready(
            title=f"{engine.served_model_name} is ready on {where}",
            rows=[
                ("URL", f"{settings.public_url}/v1"),
                ("key", _shown_key(settings, made_key)),
                ("page", f"{settings.public_url}/"),
                *([] if console is None else [("console", console)]),
            ],
            example=_curl(settings, engine.served_model_name, key=made_key or f"${API_KEY_VARIABLE}"),
        )

    with opened_screen(settings.port, [process.name for process in stack.engines]) as screen:
        return asyncio.run(
            run_stack(stack, on_ready=announce, on_line=screen.on_line, on_stop=screen.stopping)
        )


def _shown_key(settings: Settings, made_key: str | None) -> str:
    # A key chosen by the operator is named, not printed: the output may end up in a log.
    return made_key or (f"${API_KEY_VARIABLE}" if settings.api_key else f"one of {settings.api_key_file}")


def _curl(settings: Settings, model: str | None, *, key: str) -> str:
    """Return a command that asks the server a question and works when pasted into a shell."""
    body = {"model": model, "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    return (
        f"curl {settings.public_url}/v1/chat/completions \\\n"
        f'  -H "Authorization: Bearer {key}" \\\n'
        f"  -H 'Content-Type: application/json' \\\n"
        f"  -d {shlex.quote(json.dumps(body))}"
    )


def _checks(engine: EngineOptions, settings: Settings) -> list[ProcessSpec]:
    return [
        ProcessSpec(
            name="gateway",
            argv=python_command("serval", "gateway", "--check"),
            environment=child_environment(settings),
        ),
        # The first one checks the machine for all: they differ in their parts of it alone.
        ProcessSpec(name="engine", argv=engine_check_command(engine), environment=child_environment()),
    ]


def _stack(engines: Sequence[EngineOptions], settings: Settings) -> StackSpec:
    return StackSpec(
        engines=[
            ProcessSpec(
                name="engine" if len(engines) == 1 else f"engine {number}",
                argv=engine_command(engine),
                environment=child_environment(),
            )
            for number, engine in enumerate(engines)
        ],
        engine_ready_urls=[f"{_url_of(engine)}/ready" for engine in engines],
        engine_start_timeout_s=settings.engine_timeout_s,
        gateway=ProcessSpec(
            name="gateway",
            argv=python_command("serval", "gateway"),
            environment=child_environment(settings),
        ),
        gateway_ready_url=f"{settings.public_url}/readyz",
        gateway_grace_s=settings.shutdown_grace_s + _GATEWAY_STOP_MARGIN_S,
    )


async def _engine_device(engine: EngineOptions, settings: Settings) -> str:
    """The device that the engine reports."""
    key = settings.engine_api_key
    headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{_url_of(engine)}/server_info") as response,
    ):
        info = await response.json()
    return str(info["device"])


def _replicas(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= _MOST_REPLICAS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {_MOST_REPLICAS}")
    return int(text)


def _engines(args: argparse.Namespace) -> list[EngineOptions]:
    """The options of each engine: with several, its part of the machine too."""
    ports: list[int] = []
    while len(ports) < args.replicas:
        port = _engine_port()
        if port not in ports:
            ports.append(port)
    parts = [None] if args.replicas == 1 else [f"{index}/{args.replicas}" for index in range(args.replicas)]
    return [
        engine_options(args, host="127.0.0.1", port=port, part=part)
        for port, part in zip(ports, parts, strict=True)
    ]


def _url_of(engine: EngineOptions) -> str:
    return f"http://127.0.0.1:{engine.port}"


def _engine_port() -> int:
    """A free port that the system assigns to no connection, because the engine binds it seconds later.

    It is below the ports from which SGLang chooses its own.
    """
    while True:
        port = random.randrange(10_000, 21_700)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
