"""Write a small random checkpoint in Meituan's layout, with a tokenizer, that an engine can start on.

It has the structure of LongCat-Flash-Lite and sizes that expose wrong code. The same arguments write the same
weights.
"""

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from serval_sglang.checkpoint.files import refuse_present_weights
from serval_sglang.checkpoint.inspection import inspect_checkpoint
from serval_sglang.cli.text import decimal_size, short_number
from serval_sglang.config import LongcatConfig, YarnScaling
from serval_sglang.known_configs import TINY, TINY_FP8

_EXAMPLE = """\
example:
  serval checkpoint tiny ./tiny --seed 7 --dtype float32 --num-layers 2 --hidden-size 192
"""

_YARN_PREFIX = "yarn_"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; one flag for every field of config.json."""
    parser.epilog = _EXAMPLE
    add = parser.add_argument
    add("directory", type=Path, metavar="DIR", help="folder to write; must not hold weights yet")
    add("--seed", type=int, default=0, metavar="N", help="seed of the weights (default 0)")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="bfloat16",
        help="of all but the router, which is float32 (default bfloat16)",
    )
    quantised = parser.add_mutually_exclusive_group()
    quantised.add_argument(
        "--fp8", action="store_true", help="store the linear layers in FP8 with a scale per 128 x 128 block"
    )
    quantised.add_argument(
        "--packed",
        choices=("compressed-tensors", "gptq"),
        help="store them in four bits, packed as compressed-tensors does, or GPTQ and AutoRound",
    )
    add(
        "--mtp",
        action="store_true",
        help="add a multi-token-prediction layer with random weights, of --dtype in any case",
    )
    add(
        "--right-drafts",
        action="store_true",
        help="add one whose drafts are right often, but not always",
    )
    group = parser.add_argument_group("configuration", "the fields of config.json")
    for field in fields(LongcatConfig):
        if field.name != "rope_scaling":
            _add_field(group, field.name, getattr(TINY, field.name), getattr(TINY_FP8, field.name))
    for field in fields(YarnScaling):
        value = getattr(TINY.rope_scaling, field.name)
        _add_field(group, _YARN_PREFIX + field.name, value, value)


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint. Raises `ConfigError` or `CheckpointError`."""
    overrides = _overrides(args)
    # Report mistakes before importing torch, which takes seconds.
    replace(TINY_FP8 if args.fp8 else TINY, **overrides)
    refuse_present_weights(args.directory)
    import torch

    from serval_sglang.checkpoint.tiny import write_tiny_checkpoint

    dtype = getattr(torch, args.dtype)
    write_tiny_checkpoint(
        args.directory,
        seed=args.seed,
        dtype=dtype,
        fp8=args.fp8,
        packed=args.packed,
        mtp=args.mtp,
        right_drafts=args.right_drafts,
        **overrides,
    )
    parts = inspect_checkpoint(args.directory).parts.values()
    parameters = short_number(sum(part.parameters for part in parts))
    size = decimal_size(sum(part.size_bytes for part in parts))
    print(f"{args.directory}: {parameters} parameters, {size}")
    return 0


def _add_field(
    group: argparse._ArgumentGroup, name: str, default: bool | float, in_fp8: bool | float
) -> None:
    """Add an argument that is None if not given, because its default depends on --fp8."""
    flag = f"--{name.replace('_', '-')}"
    default_text = f"(default {default:g}{'' if in_fp8 == default else f', with --fp8 {in_fp8:g}'})"
    if isinstance(default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=f"(default {default})")
    else:
        group.add_argument(flag, type=type(default), metavar="N", help=default_text)


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    names = [field.name for field in fields(LongcatConfig) if field.name != "rope_scaling"]
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    yarn = {f.name: getattr(args, _YARN_PREFIX + f.name) for f in fields(YarnScaling)}
    changed = {name: value for name, value in yarn.items() if value is not None}
    assert TINY.rope_scaling is not None
    return {**given, "rope_scaling": replace(TINY.rope_scaling, **changed)}
