"""The adapter in the real engine, on small checkpoints with LongCat-Flash-Lite's attention: right or wrong.

The sizes of the attention are Lite's, because backends are chosen and compiled by them. Everything else is
small, so that the reference on the CPU takes seconds.
"""

from dataclasses import replace

from serval_load.gpu_check.step import Needs, Step

_ENGINE = Needs(packages=("torch", "sglang", "serval_sglang"), gpu_memory_gib=20, disk_gib=2)
# SGLang's kernels for FP8 experts do not compile for older GPUs.
_FP8_ENGINE = replace(_ENGINE, capability=9.0)
# On a GPU the inputs of FP8 layers are rounded to FP8 as well. Simulated in the reference, that alone moves
# log-probabilities by 0.035 in the mean; two such computations, rounded a little differently, differ by 0.04.
# A wrong hash or expert moves them by 0.1 and more.
FP8_BOUND = ("--mean-bound", "0.06")
_TWO_GPUS = replace(_ENGINE, gpus=2)
_CHECKPOINT = ("-m", "serval_sglang.cli.checkpoint")
_SIZES = (
    "--num-layers", "2", "--hidden-size", "384", "--num-attention-heads", "16", "--q-lora-rank", "128",
    "--kv-lora-rank", "512", "--qk-nope-head-dim", "128", "--qk-rope-head-dim", "64", "--v-head-dim", "128",
    "--ffn-hidden-size", "256", "--expert-ffn-hidden-size", "256",
)  # fmt: skip
DRAFT_BENCH = ("-m", "serval_sglang.draft_bench", "--json", "{rows}")
_SMALL_DRAFT_BENCH = (
    "--device", "cpu", "--dtype", "float32", "--steps", "3", "--requests", "4", "--tokens", "16",
    "--at-once", "4", "--batches", "1", "--timed-tokens", "16", "--repeats", "1",
)  # fmt: skip
# The first engine compiles CUDA kernels for minutes; later ones find them in the cache.
_FIRST_START_S, _START_S = 240.0, 60.0
_LIMIT_S = 600.0

COMPILERS = "adapter: compilers"
BF16 = "adapter: bf16"
FP8 = "adapter: FP8"
HOST = "adapter: host tables"
INT8 = "adapter: 8-bit tables"
HOST_INT8 = "adapter: host, 8 bit"
STREAM = "adapter: second stream"
CONSISTENT = "adapter: batch, prefix"
DRAFTS = "adapter: drafts"
_FILES, _FP8_FILES, _INT8_FILES = "adapter: files", "adapter: files, FP8", "adapter: files, 8 bit"
_DRAFT_FILES = "adapter: files, drafts"


def _verify(folder: str, *options: str, device: str = "cuda") -> tuple[str, ...]:
    return (*_CHECKPOINT, "verify", f"{{work}}/{folder}", "--device", device, "--dtype", "bfloat16", *options)


def _consistency(*options: str, device: str = "cuda") -> tuple[str, ...]:
    return ("-m", "serval_sglang.consistency", "--model", "{work}/bf16", "--device", device, *options)


def _reference_step(
    name: str,
    shows: str,
    folder: str,
    *options: str,
    after: tuple[str, ...],
    expected_s: float = _START_S,
    needs: Needs = _ENGINE,
    variable: tuple[str, str] | None = None,
    rehearsed: bool = False,
) -> Step:
    """Return a step that compares an engine with the reference."""
    return Step(
        name,
        shows,
        _verify(folder, *options),
        expected_s=expected_s,
        limit_s=_LIMIT_S,
        needs=needs,
        after=after,
        environment={} if variable is None else dict([variable]),
        rehearsal=_verify(folder, *options, device="cpu") if rehearsed else None,
    )


def _consistency_step(
    name: str, shows: str, *options: str, expected_s: float, rehearsed: bool = False
) -> Step:
    """Return a step that compares an engine with itself."""
    small = ("--requests", "8", "--tokens", "6")
    return Step(
        name,
        shows,
        _consistency(*options),
        expected_s=expected_s,
        limit_s=_LIMIT_S,
        needs=_ENGINE,
        after=(BF16,),
        rehearsal=_consistency(*small, device="cpu") if rehearsed else None,
    )


def _files_step(name: str, shows: str, folder: str, *options: str) -> Step:
    command = (*_CHECKPOINT, "tiny", f"{{work}}/{folder}", *_SIZES, *options)
    # No GPU is needed, but nothing is made that no step could use.
    return Step(
        name, shows, command, expected_s=20, limit_s=120, needs=_ENGINE, writes=folder, rehearsal=command
    )


_INT8_COMMAND = (*_CHECKPOINT, "quantize-tables", "{work}/bf16", "{work}/int8")

STEPS = (
    Step(
        COMPILERS,
        "driver, packages, nvcc, c++ and ninja: SGLang compiles CUDA kernels on first use",
        ("-m", "serval", "doctor", "--before-start"),
        expected_s=10,
        limit_s=60,
        needs=replace(_ENGINE, disk_gib=0),
        rehearsal=("-m", "serval", "doctor", "--before-start"),
    ),
    _files_step(_FILES, "a checkpoint with Lite's attention, two layers, bf16", "bf16"),
    _reference_step(
        BF16,
        "engine = reference in bf16: prompts of all lengths, chunks, prefix hits, decode, CUDA graphs",
        "bf16",
        after=(COMPILERS, _FILES),
        expected_s=_FIRST_START_S,
        rehearsed=True,
    ),
    _consistency_step(
        CONSISTENT,
        "the same answers alone, from the prefix cache and in a batch of 64",
        expected_s=_START_S,
        rehearsed=True,
    ),
    _files_step(_FP8_FILES, "the same with linear layers in block-wise FP8", "fp8", "--fp8"),
    _reference_step(
        FP8,
        "engine = reference with FP8 weights",
        "fp8",
        *FP8_BOUND,
        after=(COMPILERS, _FP8_FILES),
        expected_s=_FIRST_START_S,
        needs=_FP8_ENGINE,
        rehearsed=True,
    ),
    _consistency_step(
        "adapter: graphs",
        "the same answers without CUDA graphs",
        *("--requests", "16", "--beside=--cuda-graph-backend-decode=disabled"),
        expected_s=2 * _START_S,
    ),
    _consistency_step(
        "adapter: chunks",
        "the same answers in chunks of 16 tokens",
        *("--requests", "16", "--beside=--chunked-prefill-size=16"),
        expected_s=2 * _START_S,
    ),
    _reference_step(
        "adapter: mixed chunks",
        "engine = reference with decode steps inside prefill batches",
        "bf16",
        "--",
        "--enable-mixed-chunk",
        after=(BF16,),
    ),
    _reference_step(
        HOST,
        "engine = reference with tables in pinned host memory",
        "bf16",
        after=(BF16,),
        variable=("SERVAL_NGRAM_TABLES", "host"),
    ),
    Step(
        _INT8_FILES,
        "the bf16 checkpoint with 8-bit tables",
        _INT8_COMMAND,
        expected_s=15,
        limit_s=120,
        needs=_ENGINE,
        after=(_FILES,),
        writes="int8",
        rehearsal=_INT8_COMMAND,
    ),
    _reference_step(
        INT8, "engine = reference with 8-bit tables on the GPU", "int8", after=(BF16, _INT8_FILES)
    ),
    _reference_step(
        HOST_INT8,
        "engine = reference with 8-bit tables in pinned host memory",
        "int8",
        after=(BF16, _INT8_FILES),
        variable=("SERVAL_NGRAM_TABLES", "host"),
    ),
    _reference_step(
        STREAM,
        "engine = reference with experts on a second stream, also in CUDA graphs",
        "bf16",
        after=(BF16,),
        variable=("SERVAL_MOE_OVERLAP_TOKENS", "1048576"),
    ),
    _reference_step(
        "adapter: HiCache",
        "engine = reference with prefixes restored from the host's memory",
        "bf16",
        "--",
        "--enable-hierarchical-cache",
        after=(BF16,),
    ),
    _reference_step(
        "adapter: two GPUs",
        "engine = reference at TP 2, EP 2",
        "bf16",
        "--tp",
        "2",
        "--ep",
        "2",
        after=(BF16,),
        needs=_TWO_GPUS,
    ),
    _reference_step(
        "adapter: DeepEP",
        "engine = reference with DeepEP's exchange of tokens, FP8",
        "fp8",
        "--tp",
        "2",
        "--ep",
        "2",
        *FP8_BOUND,
        "--",
        "--moe-a2a-backend=deepep",
        after=(FP8,),
        needs=replace(_TWO_GPUS, capability=9.0, packages=(*_TWO_GPUS.packages, "deep_ep")),
    ),
    _files_step(
        _DRAFT_FILES, "the bf16 checkpoint with an MTP layer that is often right", "mtp", "--right-drafts"
    ),
    _reference_step(
        DRAFTS,
        "engine = reference with three drafts at a time, and the number of right drafts",
        "mtp",
        "--mtp-steps",
        "3",
        after=(BF16, _DRAFT_FILES),
    ),
    Step(
        "adapter: draft times",
        "the same answers with 1 to 3 drafts as without, graphs and overlap on; tokens/s, acceptance",
        (*DRAFT_BENCH, "--model", "{work}/mtp"),
        expected_s=6 * _START_S,
        limit_s=3 * _LIMIT_S,
        needs=_ENGINE,
        after=(BF16, _DRAFT_FILES),
        measures=True,
        rehearsal=(*DRAFT_BENCH, "--model", "{work}/mtp", *_SMALL_DRAFT_BENCH),
    ),
)
