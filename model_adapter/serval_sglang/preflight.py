"""Mistakes that would end an engine's start after minutes, found in a second from headers of files.

Neither torch nor SGLang is imported.
"""

from serval_sglang.checkpoint.files import CheckpointError
from serval_sglang.checkpoint.inspection import TOKENIZER_FILES, Inspection, inspect_checkpoint
from serval_sglang.checkpoint.layout import NO_MTP_LAYER
from serval_sglang.cuda_driver import visible_gpus
from serval_sglang.drafts.refusals import DRAFTS_WITH_SPARSE_ATTENTION
from serval_sglang.memory_check import missing_memory
from serval_sglang.options import EngineOptions, flag_value, ranks, replicas, uses_host_cache
from serval_sglang.siblings import ARCHITECTURES

_HOST_CACHE_ON_CPU = "--enable-hierarchical-cache: SGLang starts no HiCache on a CPU"
_HOST_CACHE_UNTESTED = (
    "--enable-hierarchical-cache has not been compared with this model on a GPU yet, and other models that"
    " keep more than keys and values have got wrong answers from it; compare it with `serval checkpoint"
    " verify` and the same flag, or give --allow-untested hicache"
)
# Values of --load-format with which the weights are the files that are inspected here.
_INSPECTED_FORMATS = (None, "auto")
_NAMES_SHOWN = 3
_DOWNLOAD = "download the checkpoint's files again; `serval checkpoint inspect` lists all that is wrong"


def find_mistakes(options: EngineOptions, *, tables_on_host: bool) -> list[str]:
    """Return sentences that say why the checkpoint cannot be served; empty if it can.

    `options.device` must be resolved. Weights are not looked at where a flag chooses another format.
    """
    return [*_untested_cache(options), *_mistakes_in_checkpoint(options, tables_on_host=tables_on_host)]


def _untested_cache(options: EngineOptions) -> list[str]:
    if not uses_host_cache(options.sglang_flags):
        return []
    if options.device == "cpu":
        return [_HOST_CACHE_ON_CPU]
    return [] if options.allow_untested == "hicache" else [_HOST_CACHE_UNTESTED]


def _mistakes_in_checkpoint(options: EngineOptions, *, tables_on_host: bool) -> list[str]:
    try:
        found = inspect_checkpoint(options.model)
    except CheckpointError as error:
        return [str(error)]
    if found.is_foreign:
        return [*found.problems, "--model has to name the folder of another checkpoint"]
    refused = _refused_on_gpu(found, options)
    if refused:
        return refused
    if flag_value(options.sglang_flags, "--load-format") not in _INSPECTED_FORMATS:
        return []
    # Tensors that an unreadable file should hold are missing too, which would only be said twice.
    mistakes = list(found.problems) or _wrong_weights(found)
    if mistakes:
        return [*mistakes, _DOWNLOAD]
    return [
        *_misplaced_tables(found, tables_on_host=tables_on_host),
        *_missing_tokenizer(options),
        *_missing_drafts(found, options),
        *_missing_gpus(options),
        *missing_memory(found, options, tables_on_host=tables_on_host),
    ]


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


def _refused_on_gpu(found: Inspection, options: EngineOptions) -> list[str]:
    if options.device == "cpu" or found.config is None:
        return []
    reason = ARCHITECTURES[found.config.architecture].refused_on_gpu
    return [] if reason is None else [reason]


def _misplaced_tables(found: Inspection, *, tables_on_host: bool) -> list[str]:
    if not tables_on_host or found.config is None or found.config.has_ngrams:
        return []
    return ["--ngram-tables host: this model has no n-gram tables; leave it out"]


def _missing_tokenizer(options: EngineOptions) -> list[str]:
    missing = [name for name in TOKENIZER_FILES if not (options.model / name).is_file()]
    if not missing:
        return []
    return [f"{' and '.join(missing)}: missing; copy the tokenizer's files from the model's repository"]


def _missing_drafts(found: Inspection, options: EngineOptions) -> list[str]:
    if not options.mtp_steps:
        return []
    if found.config is not None and found.config.sparse_attention is not None:
        return [DRAFTS_WITH_SPARSE_ATTENTION]
    return [NO_MTP_LAYER] if found.mtp == "none" else []


def _missing_gpus(options: EngineOptions) -> list[str]:
    # Ranks of one engine on several machines are not counted here.
    if options.device != "cuda" or flag_value(options.sglang_flags, "--nnodes") is not None:
        return []
    gpus = visible_gpus()
    if gpus == 0:
        return ["CUDA shows no GPU here; see nvidia-smi and CUDA_VISIBLE_DEVICES, or give --device cpu"]
    copies = replicas(options.sglang_flags)
    engines = 1 if options.machine_part is None else options.machine_part.of
    needed = engines * ranks(options)
    if needed > gpus:
        flags = f"--tp {options.tp}" + (f" with --dp-size {copies}" if copies > 1 else "")
        who = flags if engines == 1 else f"{engines} engines with {flags}"
        return [f"{who} need{'s' if engines == 1 else ''} {needed} GPUs, and CUDA shows {gpus} here"]
    return []
