"""Mistakes that would end an engine's start after minutes, found in a second from headers of files.

Neither torch nor SGLang is imported.
"""

import os
from collections.abc import Sequence

from serval_sglang.checkpoint.files import CheckpointError
from serval_sglang.checkpoint.inspection import ARCHITECTURES, Inspection, inspect_checkpoint
from serval_sglang.checkpoint.layout import NO_MTP_LAYER
from serval_sglang.checkpoint.parts import Part
from serval_sglang.gpu_memory import UnknownMemoryError, gpu_memory_bytes
from serval_sglang.options import EngineOptions

# Values of --load-format with which the weights are the files that are inspected here.
_INSPECTED_FORMATS = (None, "auto")
_NAMES_SHOWN = 3
_GIB = 1 << 30


def find_mistakes(options: EngineOptions, *, tables_on_host: bool) -> list[str]:
    """Return sentences that say why the checkpoint cannot be served; empty if it can.

    `options.device` must be resolved. Weights are not looked at where a flag chooses another format.
    """
    try:
        found = inspect_checkpoint(options.model)
    except CheckpointError as error:
        return [str(error)]
    if found.architecture is not None and found.architecture not in ARCHITECTURES:
        return list(found.problems)
    if flag_value(options.sglang_flags, "--load-format") not in _INSPECTED_FORMATS:
        return []
    mistakes = [*found.problems, *_wrong_weights(found)]
    if mistakes:
        return mistakes
    return [
        *_missing_tokenizer(options),
        *_missing_drafts(found, options),
        *_missing_memory(found, options, tables_on_host),
    ]


def flag_value(flags: Sequence[str], name: str) -> str | None:
    """Return the value of the last `name VALUE` or `name=VALUE` among `flags`, or None."""
    value = None
    for place, flag in enumerate(flags):
        if flag == name and place + 1 < len(flags):
            value = flags[place + 1]
        elif flag.startswith(f"{name}="):
            value = flag.removeprefix(f"{name}=")
    return value


def _wrong_weights(found: Inspection) -> list[str]:
    wrong = []
    for names, what in (
        (found.missing, "missing"),
        (found.misshapen, "not of the shape in config.json"),
    ):
        if names:
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            wrong.append(f"{', '.join(names[:_NAMES_SHOWN])}{more}: {what}")
    return wrong


def _missing_tokenizer(options: EngineOptions) -> list[str]:
    flags = options.sglang_flags
    if "--skip-tokenizer-init" in flags or flag_value(flags, "--tokenizer-path") is not None:
        return []
    if (options.model / "tokenizer.json").is_file():
        return []
    return ["tokenizer.json is missing: copy the tokenizer's files from the model's repository"]


def _missing_drafts(found: Inspection, options: EngineOptions) -> list[str]:
    return [NO_MTP_LAYER] if options.mtp_steps and Part.MTP not in found.parts else []


def _missing_memory(found: Inspection, options: EngineOptions, tables_on_host: bool) -> list[str]:
    """Report weights that are larger than the memory they go to, whatever else is in it."""
    elsewhere = {Part.UNKNOWN}
    elsewhere |= {Part.NGRAM_TABLES} if tables_on_host else set()
    elsewhere |= set() if options.mtp_steps else {Part.MTP}
    weights = sum(size.size_bytes for part, size in found.parts.items() if part not in elsewhere)
    if options.device == "cpu":
        # Ranks on a CPU share the machine's memory.
        memory, place = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine has"
    else:
        try:
            memory, place = options.tp * gpu_memory_bytes(), f"{options.tp} of its GPUs have"
        except UnknownMemoryError:
            return []
    if weights <= memory:
        return []
    return [
        f"the weights take {weights / _GIB:.1f} GiB, and {place} {memory / _GIB:.1f}; "
        "`serval plan` says what they would fit on"
    ]
