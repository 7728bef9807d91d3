"""Start the engine: ``python -m serval_sglang.launch --model DIR [options] [-- any flags of
sglang.launch_server]``.

Sets the environment, puts together SGLang's command line (flags after ``--`` come last and win), and watches
over the engine process. Ends with 0 after SIGTERM or SIGINT, with 1 when the engine could not start or has
failed, with 2 for wrong use.
"""

from __future__ import annotations

import argparse
import ctypes
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from serval_sglang.cpu_compat import environment as cpu
from serval_sglang.settings import TablePlace, available_cpus, inherited_environment, model_variables
from serval_sglang.supervision import supervise

Device = Literal["cpu", "cuda"]

_CUDA_DRIVER = "libcuda.so.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    model: Path
    device: Device
    tp: int = 1
    ep: int = 1
    host: str = "127.0.0.1"
    port: int = 30000
    served_model_name: str | None = None
    ngram_tables: TablePlace | None = None
    moe_overlap_tokens: int | None = None
    sglang_flags: Sequence[str] = field(default=())


def sglang_arguments(options: EngineOptions) -> list[str]:
    """SGLang's command line for ``options``."""
    flags = [
        f"--model-path={options.model}",
        f"--host={options.host}",
        f"--port={options.port}",
        f"--device={options.device}",
        f"--tp-size={options.tp}",
        f"--ep-size={options.ep}",
        "--incremental-streaming-output",
        "--enable-metrics",
        "--enable-cache-report",
    ]
    if options.served_model_name is not None:
        flags.append(f"--served-model-name={options.served_model_name}")
    if options.device == "cpu":
        flags.extend(cpu.FLAGS)
    return [*flags, *options.sglang_flags]


def engine_environment(
    options: EngineOptions, inherited: dict[str, str], cpus: Sequence[int]
) -> dict[str, str]:
    """The engine process's environment."""
    # With an external package SGLang does not import its two hundred models: seconds saved in each process.
    # The plugin does not depend on it, and refuses another package that provides this model.
    environment = {"SGLANG_EXTERNAL_MODEL_PACKAGE": "serval_sglang.models", **inherited}
    environment |= model_variables(
        ngram_tables=options.ngram_tables, moe_overlap_tokens=options.moe_overlap_tokens
    )
    if options.device == "cpu":
        environment |= cpu.cpu_environment(inherited, ranks=options.tp, cpus=cpus)
    return environment


def parse_options(arguments: Sequence[str]) -> EngineOptions:
    """Raises SystemExit(2) with usage on wrong use."""
    own, flags = list(arguments), []
    if "--" in own:
        split = own.index("--")
        own, flags = own[:split], own[split + 1 :]
    parser = _parser()
    given = parser.parse_args(own)
    if not (given.model / "config.json").is_file():
        parser.error(f"--model must be a directory with a config.json, got {str(given.model)!r}")
    if given.moe_overlap_tokens is not None and given.moe_overlap_tokens < 0:
        parser.error(f"--moe-overlap-tokens must be at least 0, got {given.moe_overlap_tokens}")
    if given.tp < 1 or given.ep < 1 or given.tp % given.ep:
        parser.error(f"--ep must divide --tp, got --tp {given.tp} --ep {given.ep}")
    return EngineOptions(
        model=given.model,
        device=given.device or _default_device(),
        tp=given.tp,
        ep=given.ep,
        host=given.host,
        port=given.port,
        served_model_name=given.served_model_name,
        ngram_tables=given.ngram_tables,
        moe_overlap_tokens=given.moe_overlap_tokens,
        sglang_flags=flags,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(sys.argv[1:] if arguments is None else arguments)
    _require_free_port(options.host, options.port)
    environment = engine_environment(options, inherited_environment(), available_cpus())
    # -P, which SGLang's processes inherit, keeps the working directory off the import path: a stray file
    # there would shadow a module.
    command = [sys.executable, "-P", "-m", "serval_sglang.engine_process", *sglang_arguments(options)]
    return supervise(command, environment)


def _require_free_port(host: str, port: int) -> None:
    """Raises SystemExit. SGLang binds the port only after it has loaded the model, and hangs if it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            sys.exit(
                f"serval: cannot listen on {host}:{port}: {error.strerror}. Choose another --host or --port."
            )


def _default_device() -> Device:
    # Asking torch takes seconds, and without the driver's library there is nothing to ask.
    if not _has_cuda_driver():
        return "cpu"
    # Asked in a process of its own: here torch would stay, half a gigabyte for as long as the engine runs.
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    has_gpu = subprocess.run([sys.executable, "-P", "-c", question], check=False).returncode == 0
    return "cuda" if has_gpu else "cpu"


def _has_cuda_driver() -> bool:
    try:
        ctypes.CDLL(_CUDA_DRIVER)
    except OSError:
        return False
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serval_sglang.launch",
        description="Start SGLang with Serval's LongCat-Flash-Lite model.",
        epilog="example: python -m serval_sglang.launch --model ./lite --tp 2 -- --mem-fraction-static 0.9",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint directory")
    parser.add_argument("--tp", type=int, default=1, metavar="N", help="tensor-parallel ranks (default 1)")
    parser.add_argument(
        "--ep", type=int, default=1, metavar="N", help="of these, ranks that share out the experts"
    )
    parser.add_argument(
        "--device", choices=get_args(Device), help="default: cuda if there is a GPU, else cpu"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="H", help="address to listen on (default loopback)"
    )
    parser.add_argument(
        "--port", type=int, default=30000, metavar="P", help="port to listen on (default 30000)"
    )
    parser.add_argument("--served-model-name", metavar="N", help="name in /v1/models (default: the path)")
    parser.add_argument(
        "--ngram-tables",
        choices=get_args(TablePlace),
        help="where the n-gram tables are: in the memory of the device (default), or pinned in the host's",
    )
    parser.add_argument(
        "--moe-overlap-tokens",
        type=int,
        metavar="N",
        help="on a GPU, compute the experts of batches of up to N tokens on a second stream (default 0)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
