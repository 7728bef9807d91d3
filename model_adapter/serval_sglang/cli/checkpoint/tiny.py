"""Write a small random checkpoint in Meituan's layout, with a tokenizer, that an engine can start on.

It has the structure of LongCat-Flash-Lite and sizes that expose wrong code. The same arguments write the same
weights.
"""

import argparse
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from serval_sglang.checkpoint.files import refuse_present_weights
from serval_sglang.checkpoint.inspection import inspect_checkpoint
from serval_sglang.cli.text import decimal_size, short_number
from serval_sglang.config import ConfigError, LongcatConfig, SparseAttention, YarnScaling
from serval_sglang.known_configs import TINY, TINY_FP8, TINY_SPARSE

_EXAMPLE = """\
example:
  serval checkpoint tiny ./tiny --seed 7 --dtype float32 --num-layers 2 --hidden-size 192
"""

_YARN_PREFIX = "yarn_"
# Groups of fields, which have flags of their own.
_NESTED = ("rope_scaling", "sparse_attention")


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
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument(
        "--sparse",
        action="store_true",
        help="with LongCat-Flash-Lite-Sparse's attention and names, and the --index-* fields",
    )
    kind.add_argument(
        "--fp8", action="store_true", help="store the linear layers in FP8 with a scale per 128 x 128 block"
    )
    kind.add_argument(
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
        if field.name not in _NESTED:
            _add_field(group, field.name, getattr(TINY, field.name), getattr(TINY_FP8, field.name))
    for field in fields(YarnScaling):
        value = getattr(TINY.rope_scaling, field.name)
        _add_field(group, _YARN_PREFIX + field.name, value, value)
    for field in fields(SparseAttention):
        value = getattr(TINY_SPARSE.sparse_attention, field.name)
        _add_field(group, field.name, value, value)


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint. Raises `ConfigError` or `CheckpointError`."""
    overrides = _overrides(args)
    # Report mistakes before importing torch, which takes seconds.
    replace(_base(args), **overrides)
    refuse_present_weights(args.directory)
    import torch

    from serval_sglang.checkpoint.tiny import write_tiny_checkpoint

    dtype = getattr(torch, args.dtype)
    write_tiny_checkpoint(
        args.directory,
        seed=args.seed,
        dtype=dtype,
        fp8=args.fp8,
        sparse=args.sparse,
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


def _base(args: argparse.Namespace) -> LongcatConfig:
    if args.sparse:
        return TINY_SPARSE
    return TINY_FP8 if args.fp8 else TINY


def _overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields to change. Raises `ConfigError` for fields of an attention that the model lacks."""
    base = _base(args)
    given = _given(args, [field.name for field in fields(LongcatConfig) if field.name not in _NESTED])
    yarn = _given(args, [_YARN_PREFIX + field.name for field in fields(YarnScaling)])
    yarn = {name.removeprefix(_YARN_PREFIX): value for name, value in yarn.items()}
    assert base.rope_scaling is not None
    given["rope_scaling"] = replace(base.rope_scaling, **yarn)
    sparse = _given(args, [field.name for field in fields(SparseAttention)])
    if base.sparse_attention is not None:
        given["sparse_attention"] = replace(base.sparse_attention, **sparse)
    elif sparse:
        raise ConfigError(f"{', '.join(sparse)}: only a model made with --sparse has these fields.")
    return given


def _given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
