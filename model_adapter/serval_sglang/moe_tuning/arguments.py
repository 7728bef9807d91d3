"""Command line of `python -m serval_sglang.moe_tuning`. Imports neither torch nor SGLang."""

import argparse
from pathlib import Path

from serval_sglang.options import positive_int
from serval_sglang.tuned_moe import SHIPPED

# Batches of decode steps and chunks of prefill, those that tell most first: SGLang takes the nearest.
TOKENS = (64, 1, 8192, 16, 256, 4096, 4, 1024, 32, 128, 2048, 512, 2, 8)
_DESCRIPTION = """\
Tune SGLang's Triton kernel for the experts of LongCat-Flash-Lite, on one GPU. Each rank of an engine has the
same shape of experts, so one GPU tunes for all. The engine uses the file from its next start on."""
_EXAMPLES = """\
examples:
  python -m serval_sglang.moe_tuning --tp 2 --ep 2             bf16 on two GPUs
  python -m serval_sglang.moe_tuning --dtype fp8 --minutes 30  FP8 on one GPU
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    made = argparse.ArgumentParser(
        prog="python -m serval_sglang.moe_tuning",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--model", type=Path, metavar="DIR", help="folder with a config.json (default: LongCat-Flash-Lite's)")
    add("--dtype", choices=("bf16", "fp8"), default="bf16", help="of the experts' weights (default bf16)")
    add(
        "--tp",
        type=positive_int,
        default=1,
        metavar="N",
        help="tensor-parallel size of the engine (default 1)",
    )
    add(
        "--ep",
        type=positive_int,
        default=1,
        metavar="N",
        help="expert-parallel size of the engine (default 1)",
    )
    add("--tokens", type=positive_int, nargs="+", default=list(TOKENS), metavar="T", help="sizes of batches")
    add("--minutes", type=float, default=20.0, metavar="M", help="wall time for all (default 20)")
    add("--out", type=Path, default=SHIPPED, metavar="DIR", help="default: the folder that the engine reads")
    add("--json", type=Path, metavar="FILE", help="write each result there too, one object a line")
    return made
