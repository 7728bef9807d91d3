"""The engine's options as `serval engine` and `serval serve` take them, and the command line they become."""

import argparse
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serval.errors import ServalError

Device = Literal["cpu", "cuda"]

DEMO_MODEL_NAME = "longcat-flash-lite-demo"


class EngineMissingError(ServalError):
    """The engine's packages are not installed beside the gateway."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What to serve and how it is split; `device` None lets the engine take a GPU if there is one."""

    model: Path
    served_model_name: str
    tp: int
    ep: int
    device: Device | None
    host: str
    port: int
    ngram_tables: str | None = None
    moe_overlap_tokens: int | None = None
    sglang_flags: tuple[str, ...]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is served and on which devices."""
    add = parser.add_argument
    add("--model", type=Path, metavar="DIR", help="checkpoint folder (default: the demo model)")
    add("--served-model-name", metavar="NAME", help="model id that clients ask for (default: DIR's name)")
    add("--tp", type=positive_int, default=1, metavar="N", help="tensor-parallel size (default 1)")
    add("--ep", type=positive_int, default=1, metavar="N", help="expert-parallel size (default 1)")
    add("--device", choices=("cpu", "cuda"), help="default: cuda if there is a GPU, else cpu")
    add(
        "--ngram-tables",
        choices=("device", "host"),
        help="where the n-gram tables are: the device's memory (default), or pinned memory of the host",
    )
    add(
        "--moe-overlap-tokens",
        type=token_count,
        metavar="N",
        help="on a GPU, compute the experts of batches of up to N tokens on a second stream (default 0)",
    )


def add_sglang_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags after `--`, which go to SGLang as they are."""
    parser.add_argument("sglang_flags", nargs="*", metavar="-- SGLANG_FLAG", help="any flags of SGLang")


def engine_options(args: argparse.Namespace, *, host: str, port: int) -> EngineOptions:
    """Build `EngineOptions` from parsed flags.

    Raises:
        EngineMissingError: the demo model was asked for and the engine extra is not installed.
        ServalError: `--model` is not a folder with a config.json.
    """
    model = demo_model_directory() if args.model is None else args.model.resolve()
    if not (model / "config.json").is_file():
        raise ServalError(f"--model {str(args.model)!r} is not a checkpoint folder: it holds no config.json")
    default_name = DEMO_MODEL_NAME if args.model is None else model.name
    return EngineOptions(
        model=model,
        served_model_name=args.served_model_name or default_name,
        tp=args.tp,
        ep=args.ep,
        device=args.device,
        host=host,
        port=port,
        ngram_tables=args.ngram_tables,
        moe_overlap_tokens=args.moe_overlap_tokens,
        sglang_flags=tuple(args.sglang_flags),
    )


def engine_command(options: EngineOptions) -> list[str]:
    """The command that runs the engine in this interpreter's environment."""
    engine_package_directory()
    command: list[str] = [
        # -P keeps the working directory off the import path: a stray file there would shadow a module.
        sys.executable, "-P", "-m", "serval_sglang.launch",
        "--model", str(options.model),
        "--served-model-name", options.served_model_name,
        "--tp", str(options.tp),
        "--ep", str(options.ep),
        "--host", options.host,
        "--port", str(options.port),
    ]  # fmt: skip
    if options.device is not None:
        command += ["--device", options.device]
    if options.ngram_tables is not None:
        command += ["--ngram-tables", options.ngram_tables]
    if options.moe_overlap_tokens is not None:
        command += ["--moe-overlap-tokens", str(options.moe_overlap_tokens)]
    return [*command, "--", *options.sglang_flags]


def engine_package_directory() -> Path:
    """Folder of the installed engine package, found without importing it (the gateway must not load torch).

    Raises:
        EngineMissingError: it, or SGLang, is not installed.
    """
    spec = importlib.util.find_spec("serval_sglang")
    if spec is None or spec.origin is None or importlib.util.find_spec("sglang") is None:
        raise EngineMissingError(
            "the engine is not installed here. Install it with `pip install 'serval-llm[engine]'`, "
            "or run `serval gateway --engine-url URL` in front of an engine elsewhere."
        )
    return Path(spec.origin).parent


def demo_model_directory() -> Path:
    """Folder of the demo checkpoint that ships with the engine package."""
    return engine_package_directory() / "demo" / "checkpoint"


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def token_count(text: str) -> int:
    """An argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return value


def tcp_port(text: str) -> int:
    """An argparse type: a TCP port."""
    value = int(text)
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError(f"must be between 1 and 65535, not {text}")
    return value
