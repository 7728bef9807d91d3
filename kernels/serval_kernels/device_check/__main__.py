"""`python -m serval_kernels.device_check`: the checks, each with its own line and the largest risk first."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch

from serval_kernels.device_check import layers, steps, tables
from serval_kernels.device_check.sizes import fitting_rows
from serval_kernels.launch import INTERPRETED, triton_version

Check = Callable[[torch.device, int], str]

# A check takes the device and the number of rows of the tables, returns what it has compared, and raises
# `AssertionError` where a kernel differs from its definition.
CHECKS: dict[str, Check] = {
    "decode": lambda device, _: steps.check_decode(device),
    "verify": lambda device, _: steps.check_verify(device),
    "prefill": lambda device, _: steps.check_prefill(device),
    "router": lambda device, _: layers.check_router(device),
    "experts": lambda device, _: layers.check_identity_experts(device),
    "tables": tables.check_device_table,
    "8-bit tables": tables.check_quantized_tables,
    "embedding": tables.check_embedding,
    "host tables": tables.check_host_table,
}
_NAMES = ", ".join(map(repr, CHECKS))
_HOST = ("host tables",)
_NO_GPU = (
    "device_check: error: torch finds no GPU here. TRITON_INTERPRET=1 with --device cpu rehearses the checks "
    "in small."
)
_EPILOG = """\
exit codes: 0 every check is green, 1 a kernel is wrong, 2 wrong use or no GPU

examples:
  python -m serval_kernels.device_check                     all of them, at full size
  python -m serval_kernels.device_check decode prefill      two of them
  TRITON_INTERPRET=1 python -m serval_kernels.device_check --device cpu --rows 5000
"""


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named checks and return the exit code; a red one does not keep the others from running."""
    args = parser().parse_args(arguments)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(_NO_GPU, file=sys.stderr)
        return 2
    if device.type == "cpu" and not INTERPRETED:
        print("device_check: error: --device cpu needs TRITON_INTERPRET=1.", file=sys.stderr)
        return 2
    print(f"{_name(device)}, torch {torch.__version__}, Triton {triton_version()}", flush=True)
    asked = args.checks or list(CHECKS)
    red = [name for name in asked if not _is_green(name, device, args.rows)]
    green = "1 check is green" if len(asked) == 1 else f"{len(asked)} checks are green"
    print(f"red: {', '.join(red)}" if red else green, flush=True)
    return int(bool(red))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m serval_kernels.device_check",
        description="Compare the compiled kernels with their torch definitions at full size, on one GPU.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "checks", nargs="*", type=_check_name, metavar="CHECK", help=f"of {_NAMES} (default: all)"
    )
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default cuda")
    made.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="rows of all tables together (default: Lite's 122,683,536, or as many as the memory holds)",
    )
    return made


def _check_name(text: str) -> str:
    if text not in CHECKS:
        raise argparse.ArgumentTypeError(f"must be one of {_NAMES}, got {text!r}")
    return text


def _is_green(name: str, device: torch.device, rows: int | None) -> bool:
    begin = time.perf_counter()
    try:
        compared = CHECKS[name](device, rows or fitting_rows(device, on_host=name in _HOST))
        _wait(device)
    # A fault of the device arrives as a RuntimeError, and each later check then reports it too.
    except (AssertionError, RuntimeError) as error:
        print(f"red    {name}: {error}", flush=True)
        return False
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(f"green  {name}: {compared} ({time.perf_counter() - begin:.1f} s)", flush=True)
    return True


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, Triton's interpreter"


if __name__ == "__main__":
    sys.exit(main())
