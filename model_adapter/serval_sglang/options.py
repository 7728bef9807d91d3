"""The engine's options, declared once for ``serval engine`` and ``serval serve``.

`serval` loads this module by name to put the engine's flags on its own command line, so nothing here imports
torch or SGLang.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from serval_sglang.machine_part import MachinePart, machine_part
from serval_sglang.settings import TablePlace, Untested

Device = Literal["cpu", "cuda"]

# Flags of SGLang that are not passed on: Serval sets them, and the gateway relies on them.
_OWN_FLAGS = {
    "--model-path": "give --model before the --",
    "--model": "give it before the --",
    "--served-model-name": "give it before the --",
    "--tokenizer-path": "the tokenizer is the one in --model's folder, for the gateway too",
    "--skip-tokenizer-init": "the gateway reads the text that the engine decodes",
    "--host": "give it before the --",
    "--port": "give it before the --",
    "--api-key": "set SERVAL_ENGINE_API_KEY, which no list of processes shows",
    "--admin-api-key": "with SERVAL_ENGINE_API_KEY that key is for administration too",
    "--device": "give it before the --",
    "--tp-size": "give --tp before the --",
    "--tensor-parallel-size": "give --tp before the --",
    "--ep": "give it before the --",
    "--ep-size": "give --ep before the --",
    "--expert-parallel-size": "give --ep before the --",
    **dict.fromkeys(
        (
            "--speculative-algorithm",
            "--speculative-draft-model-path",
            "--speculative-draft-model",
            "--speculative-eagle-topk",
            "--speculative-num-steps",
            "--speculative-num-draft-tokens",
            "--speculative-adaptive",
            "--speculative-adaptive-config",
        ),
        "give --mtp-steps before the --, which is the only kind of drafts that is supported for this model",
    ),
}
# SGLang takes the beginning of a flag's name for the flag; a shorter one stands for several.
_SHORTEST_BEGINNING = len("--tp")

# SGLang's two names of the flag, whose beginnings it takes as well.
_HOST_CACHE_FLAGS = ("--enable-hierarchical-cache", "--enable-hicache")
_SHORTEST_HOST_CACHE_FLAG = len("--enable-hi")

_MOST_MTP_STEPS = 3

# SGLang 0.5.23 sets this limit with drafts unless a flag has another, and says so in its log alone.
RUNNING_REQUESTS_WITH_DRAFTS = 48


def candidate_steps(mtp_steps: int) -> list[int]:
    """Return the numbers of draft steps that an engine chooses from: none, one, and those asked for."""
    return sorted({0, 1, mtp_steps})


DEMO_MODEL = Path(__file__).parent / "demo" / "checkpoint"
DEMO_MODEL_NAME = "longcat-flash-lite-demo"


class ModelFolderError(ValueError):
    """``--model`` does not name a checkpoint folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The model to serve and how it is split; ``device`` None selects a GPU if there is one.

    A new option needs a field here, an argument in `add_model_arguments`, and its use in
    `serval_sglang.launch`.
    """

    model: Path
    served_model_name: str | None = None
    tp: int = 1
    ep: int = 1
    device: Device | None = None
    ngram_tables: TablePlace | None = None
    moe_overlap_tokens: int | None = None
    mtp_steps: int = 0
    mtp_fixed: bool = False
    grammar_drafts: bool = True
    allow_untested: Untested | None = None
    machine_part: MachinePart | None = None
    host: str = "127.0.0.1"
    port: int = 30000
    sglang_flags: Sequence[str] = ()


_DEFAULTS = EngineOptions(model=DEMO_MODEL)


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the model to serve and the devices to use."""
    add = parser.add_argument
    add("--model", type=Path, metavar="DIR", help="checkpoint folder (default: the demo model)")
    add("--served-model-name", metavar="NAME", help="model id that clients ask for (default: DIR's name)")
    add(
        "--tp",
        type=positive_int,
        default=_DEFAULTS.tp,
        metavar="N",
        help="tensor-parallel size (default %(default)s)",
    )
    add(
        "--ep",
        type=positive_int,
        default=_DEFAULTS.ep,
        metavar="N",
        help="expert-parallel size (default %(default)s)",
    )
    add("--device", choices=get_args(Device), help="default: cuda if there is a GPU, else cpu")
    add(
        "--ngram-tables",
        choices=get_args(TablePlace),
        help="where the n-gram tables are: the device's memory (default), or pinned memory of the host",
    )
    add(
        "--moe-overlap-tokens",
        type=token_count,
        metavar="N",
        help="on a GPU, compute the experts of batches of up to N tokens on a second stream (default 0)",
    )
    add_mtp_steps(parser)
    add(
        "--mtp-fixed",
        action=argparse.BooleanOptionalAction,
        default=_DEFAULTS.mtp_fixed,
        help="always draft --mtp-steps tokens; by default as many of them as are fastest, or none",
    )
    add(
        "--grammar-drafts",
        action=argparse.BooleanOptionalAction,
        default=_DEFAULTS.grammar_drafts,
        help="with --mtp-steps, also draft the tokens that a schema forces (default)",
    )
    add(
        "--allow-untested",
        choices=get_args(Untested),
        help="allow what has not been compared on a GPU: hicache (--enable-hierarchical-cache);"
        " SERVAL_ALLOW_UNTESTED does too",
    )


def add_mtp_steps(parser: argparse.ArgumentParser) -> None:
    """Add ``--mtp-steps``, for `serval plan` and `serval checkpoint verify` too."""
    parser.add_argument(
        "--mtp-steps",
        type=int,
        choices=range(_MOST_MTP_STEPS + 1),
        default=_DEFAULTS.mtp_steps,
        metavar="N",
        help="tokens that the model's multi-token-prediction layer drafts at a time, up to "
        f"{_MOST_MTP_STEPS} (default %(default)s: no drafts)",
    )


def add_sglang_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags after ``--``, which are passed to SGLang, except those that Serval sets itself."""
    add = parser.add_argument
    add("sglang_flags", nargs="*", type=sglang_flag, metavar="-- SGLANG_FLAG", help="other flags of SGLang")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add all flags of ``serval engine``."""
    add_model_arguments(parser)
    add = parser.add_argument
    add("--host", default=_DEFAULTS.host, help="address to listen on (default %(default)s)")
    add("--port", type=tcp_port, default=_DEFAULTS.port, help="port to listen on (default %(default)s)")
    add(
        "--machine-part",
        type=machine_part,
        metavar="I/N",
        help="of N engines on this machine, be the one that uses part I of its GPUs or CPUs (from 0)",
    )
    add_sglang_flags(parser)


def engine_options(
    args: argparse.Namespace, *, host: str, port: int, part: str | None = None
) -> EngineOptions:
    """Return the options from parsed flags, for an engine at ``host`` and ``port``.

    ``part`` is the engine's part of the machine, as in ``--machine-part``, where that is not among the flags.

    Raises:
        ModelFolderError: ``--model`` is not a folder with a config.json.
    """
    model = DEMO_MODEL if args.model is None else args.model.resolve()
    if not (model / "config.json").is_file():
        raise ModelFolderError(
            f"--model {str(args.model)!r} is not a checkpoint folder: it holds no config.json"
        )
    default_name = DEMO_MODEL_NAME if args.model is None else model.name
    names = {field.name for field in fields(EngineOptions)}
    given = {name: value for name, value in vars(args).items() if name in names}
    given |= {"model": model, "served_model_name": args.served_model_name or default_name}
    given |= {"host": host, "port": port}
    if part is not None:
        given["machine_part"] = machine_part(part)
    return EngineOptions(**given)


def command_line(options: EngineOptions) -> list[str]:
    """Return the flags from which `engine_options` recreates ``options``."""
    flags: list[str] = []
    for field in fields(options):
        value, name = getattr(options, field.name), field.name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif field.name != "sglang_flags" and value is not None:
            flags += [f"--{name}", str(value)]
    return [*flags, "--", *options.sglang_flags]


def sglang_flag(text: str) -> str:
    """Check one word after ``--``, as an argparse type: a flag that Serval sets itself is refused."""
    name = text.partition("=")[0]
    own = name if name in _OWN_FLAGS else next((flag for flag in _OWN_FLAGS if flag.startswith(name)), None)
    if own is None or len(name) < _SHORTEST_BEGINNING:
        return text
    raise argparse.ArgumentTypeError(f"{name} is not passed on to SGLang: {_OWN_FLAGS[own]}")


def flag_value(flags: Sequence[str], *names: str) -> str | None:
    """Return the value of the last `NAME VALUE` or `NAME=VALUE` among `flags`, or None."""
    value = None
    for flag, following in zip(flags, [*flags, None][1:], strict=True):
        name, has_value, given = flag.partition("=")
        if name in names:
            value = given if has_value else following
    return value


def uses_host_cache(flags: Sequence[str]) -> bool:
    """Return True if SGLang's flags ask for HiCache, which keeps prefixes in the host's memory."""
    return any(_is_host_cache_flag(flag) for flag in flags)


def without_host_cache(flags: Sequence[str]) -> list[str]:
    """Return the flags without those that ask for HiCache."""
    return [flag for flag in flags if not _is_host_cache_flag(flag)]


def _is_host_cache_flag(flag: str) -> bool:
    return len(flag) >= _SHORTEST_HOST_CACHE_FLAG and any(own.startswith(flag) for own in _HOST_CACHE_FLAGS)


def replicas(flags: Sequence[str]) -> int:
    """Return how many replicas of the model, each of ``--tp`` ranks, SGLang's flags ask for.

    Raises ValueError if ``--dp-size`` is not a number.
    """
    # With this flag the replicas are of the attention alone, within the ranks of --tp.
    if "--enable-dp-attention" in flags:
        return 1
    given = flag_value(flags, "--dp-size", "--data-parallel-size") or "1"
    if not (given.isascii() and given.isdigit() and int(given) > 0):
        raise ValueError(f"--dp-size must be a number of replicas, got {given!r}")
    return int(given)


def ranks(options: EngineOptions) -> int:
    """Return the number of ranks, of all replicas together. Raises `ValueError` as `replicas` does."""
    return options.tp * replicas(options.sglang_flags)


def positive_int(text: str) -> int:
    """Parse an integer of at least 1, as an argparse type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def token_count(text: str) -> int:
    """Parse an integer of at least 0, as an argparse type."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return value


def tcp_port(text: str) -> int:
    """Parse a TCP port, as an argparse type."""
    value = int(text)
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError(f"must be between 1 and 65535, not {text}")
    return value
