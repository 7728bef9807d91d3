"""Show what a checkpoint holds: the size of each part, dtypes, context and quantisation.

Reads config.json and the headers of the safetensors files, no weights. Exit code 0: these are the tensors
that config.json asks for, and no others. 1: some are missing, unknown or of another shape, or a file cannot
be read. Files that may run code in other tools are listed, but Serval loads none of them.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from serval_sglang.checkpoint.inspection import Inspection, PartSize, inspect_checkpoint
from serval_sglang.checkpoint.parts import Part
from serval_sglang.cli.checkpoint.arguments import add_directory
from serval_sglang.cli.text import decimal_size, short_number, table

_EXAMPLE = """\
example:
  serval checkpoint inspect ./LongCat-Flash-Lite --json
"""

_NAMES_SHOWN = 20
_MTP = {
    "complete": "yes: drafts several tokens in speculative decoding",
    "partial": "in part",
    "none": "none: no speculative decoding with it",
    None: "not known without config.json",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = _EXAMPLE
    add_directory(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, with all names")


def run(args: argparse.Namespace) -> int:
    """Print the inspection; return 0 if the checkpoint is complete."""
    inspection = inspect_checkpoint(args.directory)
    if args.json:
        print(json.dumps(as_json(inspection)))
    else:
        print("\n".join(as_text(inspection)))
    return 0 if inspection.is_complete else 1


def as_json(inspection: Inspection) -> dict[str, Any]:
    """Return the whole inspection, with `config` in the form of config.json."""
    config, quantization = inspection.config, inspection.quantization
    parts = inspection.parts.values()
    return {
        "complete": inspection.is_complete,
        "architecture": inspection.architecture,
        "context_tokens": None if config is None else config.max_position_embeddings,
        "mtp": inspection.mtp,
        "quantization": None if quantization is None else asdict(quantization),
        "table_dtype": inspection.table_dtype,
        "files": inspection.files,
        "parameters": sum(part.parameters for part in parts),
        "size_bytes": sum(part.size_bytes for part in parts),
        "parts": {str(part): asdict(size) for part, size in inspection.parts.items()},
        "missing": inspection.missing,
        "unknown": inspection.unknown,
        "misshapen": inspection.misshapen,
        "unread": inspection.unread,
        "problems": inspection.problems,
        "lacks": inspection.lacks,
        "unsafe": [asdict(unsafe) for unsafe in inspection.unsafe],
        "config": None if config is None else config.to_dict(),
    }


def as_text(inspection: Inspection) -> Iterator[str]:
    """Yield lines for a terminal: facts, the table, and problems."""
    config = inspection.config
    yield f"architecture  {inspection.architecture or 'not named'}"
    if config is not None:
        yield f"layers        {config.num_layers}, two attentions each"
        yield f"context       {config.max_position_embeddings:,} tokens"
    tables = f", n-gram tables in {inspection.table_dtype}" if inspection.table_dtype else ""
    yield f"quantisation  {inspection.quantization or 'none'}{tables}"
    yield f"MTP layer     {_MTP[inspection.mtp]}"
    yield f"files         {inspection.files}"
    if inspection.parts:
        yield f"\n{_parts_table(inspection.parts)}"
    yield from _listed("missing tensors", inspection.missing)
    yield from _listed("unknown tensors", inspection.unknown)
    yield from _listed("tensors of another shape", inspection.misshapen)
    yield from _listed("problems", inspection.problems)
    yield from _listed("other weights, which the engine does not read", inspection.unread)
    yield from _listed("warning, files that may run code", [str(unsafe) for unsafe in inspection.unsafe])
    yield from _listed("warning, missing files without which it cannot be served", inspection.lacks)
    yield ""
    yield (
        "complete"
        if inspection.is_complete
        else "not complete: this is not the model that config.json describes"
    )


def _parts_table(sizes: Mapping[Part, PartSize]) -> str:
    total = PartSize(
        tensors=sum(size.tensors for size in sizes.values()),
        parameters=sum(size.parameters for size in sizes.values()),
        size_bytes=sum(size.size_bytes for size in sizes.values()),
        dtypes=(),
    )
    rows = [("part", "tensors", "parameters", "size", "dtypes")]
    rows += [_row(part, size) for part, size in sizes.items()]
    rows.append(_row("total", total))
    return table(rows, left=frozenset({0, 4}))


def _row(name: str, size: PartSize) -> tuple[str, str, str, str, str]:
    dtypes = " ".join(size.dtypes)
    return name, f"{size.tensors:,}", short_number(size.parameters), decimal_size(size.size_bytes), dtypes


def _listed(title: str, entries: Sequence[str]) -> Iterator[str]:
    if not entries:
        return
    yield f"\n{title} ({len(entries)}):"
    yield from (f"  {entry}" for entry in entries[:_NAMES_SHOWN])
    if len(entries) > _NAMES_SHOWN:
        yield f"  and {len(entries) - _NAMES_SHOWN} more"
