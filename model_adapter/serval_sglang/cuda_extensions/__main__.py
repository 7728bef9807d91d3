"""List the CUDA extensions that LongCat-Flash-Lite needs in SGLang, and build them without a GPU.

`build` writes to SGLang's caches (SGLANG_JIT_CACHE_DIR; SGLANG_CACHE_DIR for flashinfer), so run it with the
compilers, packages and variables of the engine: other versions or flags are other keys. Exit code 1: at least
one could not be built.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import get_args

from serval_sglang.cli.text import table
from serval_sglang.cuda_extensions.build import Built, build_extensions
from serval_sglang.cuda_extensions.needed import (
    CAPABILITIES,
    FP8_CAPABILITIES,
    Capability,
    Extension,
    WeightFormat,
    needed_extensions,
    needed_on_gpu,
)
from serval_sglang.known_configs import LITE

_RANKS = (1, 2, 4, 8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        chosen = {
            capability: _extensions(capability, weights=args.weights, ranks=args.tp)
            for capability in args.arch
        }
    except ValueError as error:
        parser.error(str(error))
    if args.command == "list":
        print("\n\n".join(_listed(capability, found, args.weights) for capability, found in chosen.items()))
        return 0
    if len(chosen) > 1:
        return _build_each_in_its_process(args)
    ((capability, extensions),) = chosen.items()
    built = build_extensions(extensions, capability)
    print(json.dumps([_as_json(result) for result in built]) if args.json else _as_text(capability, built))
    return int(any(result.problem for result in built))


def _extensions(
    capability: Capability, *, weights: Sequence[WeightFormat], ranks: Sequence[int]
) -> list[Extension]:
    """Extensions of engines of these kinds, each once, without a format that is not listed for the GPU."""
    formats = [kind for kind in weights if kind != "fp8" or capability in FP8_CAPABILITIES]
    found = [
        extension
        for kind in formats
        for count in ranks
        for extension in needed_extensions(LITE, weights=kind, capability=capability, ranks=count)
    ]
    return list(dict.fromkeys(found))


def _build_each_in_its_process(args: argparse.Namespace) -> int:
    failed = False
    for major, minor in args.arch:
        command = [sys.executable, "-P", "-m", "serval_sglang.cuda_extensions", "build"]
        command += ["--arch", f"{major}.{minor}", "--weights", *args.weights]
        command += ["--tp", *(str(count) for count in args.tp), *(["--json"] if args.json else [])]
        failed |= subprocess.run(command, check=False).returncode != 0
    return int(failed)


def _listed(capability: Capability, extensions: Sequence[Extension], weights: Sequence[WeightFormat]) -> str:
    rows = [["extension", "used by"], *([found.name, found.used] for found in extensions)]
    remaining = dict.fromkeys(
        found for kind in weights for found in needed_on_gpu(LITE, weights=kind, capability=capability)
    )
    lines = [f"{found.name}: {found.reason}" for found in remaining]
    return "\n".join(
        [f"compute capability {capability[0]}.{capability[1]}", table(rows), "not built here:", *lines]
    )


def _as_text(capability: Capability, built: Sequence[Built]) -> str:
    rows = [["extension", "seconds", "KiB"]]
    rows += [[result.extension.name, f"{result.seconds:.1f}", _size(result)] for result in built]
    problems = [f"{result.extension.name}: {result.problem}" for result in built if result.problem]
    return "\n".join([f"compute capability {capability[0]}.{capability[1]}", table(rows), *problems])


def _size(result: Built) -> str:
    return "failed" if result.library is None else str(result.library.stat().st_size // 1024)


def _as_json(result: Built) -> dict[str, object]:
    return {
        "extension": result.extension.name,
        "seconds": result.seconds,
        "library": None if result.library is None else str(result.library),
        "bytes": None if result.library is None else result.library.stat().st_size,
        "problem": result.problem,
    }


def _capability(text: str) -> Capability:
    known = {f"{major}.{minor}": (major, minor) for major, minor in CAPABILITIES}
    if text not in known:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(known)}, got {text!r}")
    return known[text]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m serval_sglang.cuda_extensions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_text in _COMMANDS.items():
        command = commands.add_parser(name, help=help_text)
        add = command.add_argument
        add(
            "--arch",
            type=_capability,
            nargs="+",
            default=[(9, 0)],
            metavar="N.N",
            help="compute capabilities",
        )
        add("--weights", nargs="+", choices=get_args(WeightFormat), default=list(get_args(WeightFormat)))
        add("--tp", type=int, nargs="+", choices=_RANKS, default=[1], help="numbers of tensor-parallel ranks")
        if name == "build":
            add("--json", action="store_true", help="print JSON")
    return parser


_COMMANDS = {"list": "print the table", "build": "build what is missing in the caches"}


if __name__ == "__main__":
    sys.exit(main())
