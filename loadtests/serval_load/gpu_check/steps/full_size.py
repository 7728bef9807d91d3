"""The model's full size: random weights beside SGLang's built-in class, and the real weights if given."""

from serval_load.gpu_check.step import Needs, Step
from serval_load.gpu_check.steps import adapter

_ENGINE = ("torch", "sglang", "serval_sglang")
_BENCH = ("-m", "serval_sglang.bench", "--json", "{rows}")
_BATCHES = ("--batches", "1", "16", "64", "--steps", "64", "--repeats", "3")
_TUNING = ("-m", "serval_sglang.moe_tuning", "--dtype", "fp8", "--minutes", "9")
_ONE_GPU = Needs(packages=_ENGINE, gpu_memory_gib=130, capability=9.0, disk_gib=1)
_HOST = Needs(packages=_ENGINE, gpu_memory_gib=70, capability=9.0, host_memory_gib=80, disk_gib=1)


def _times(
    name: str, shows: str, variant: str, *after: str, needs: Needs = _ONE_GPU, rehearsed: bool = False
) -> Step:
    """Return a step that measures one variant of the full-size model with random FP8 weights."""
    small = ["--device", "cpu", "--small", "--layers", "1", "--batches", "1"]
    short = ["--steps", "4", "--repeats", "1", "--prefill", "64"]
    return Step(
        name,
        shows,
        (*_BENCH, "--variants", variant, "--layers", "14", "--fp8", *_BATCHES),
        expected_s=150,
        limit_s=900,
        needs=needs,
        after=after,
        measures=True,
        rehearsal=(*_BENCH, "--variants", variant, *small, *short) if rehearsed else None,
    )


STEPS = (
    _times(
        "full size: serval",
        "decode step at batch 1, 16, 64, prefill and memory, random FP8 weights",
        "serval",
        adapter.FP8,
        adapter.CONSISTENT,
        rehearsed=True,
    ),
    _times(
        "full size: built-in",
        "the same of SGLang's own class, whose answers are wrong (sgl-project/sglang#10019)",
        "built-in",
        adapter.COMPILERS,
    ),
    _times(
        "full size: host tables",
        "the same with tables in pinned host memory",
        "host tables",
        adapter.FP8,
        adapter.HOST,
        needs=_HOST,
    ),
    _times(
        "full size: second stream",
        "the same with experts on a second stream",
        "overlap",
        adapter.FP8,
        adapter.STREAM,
    ),
    _times(
        "full size: 8 bit", "the same with 8-bit tables on the GPU", "int8 tables", adapter.FP8, adapter.INT8
    ),
    _times(
        "full size: host, 8 bit",
        "the same with 8-bit tables in pinned host memory",
        "host int8 tables",
        adapter.FP8,
        adapter.HOST_INT8,
        needs=_HOST,
    ),
    Step(
        "full size: tuned experts",
        "launches of SGLang's experts' kernel for this GPU, compared before they are timed",
        (*_TUNING, "--out", "{work}/moe_configs", "--json", "{rows}"),
        expected_s=600,
        limit_s=900,
        needs=Needs(packages=_ENGINE, gpu_memory_gib=70, capability=9.0),
        after=(adapter.FP8,),
        measures=True,
        writes="moe_configs",
    ),
    Step(
        "model: same answers",
        "the real weights in FP8 on one GPU: the same answers alone, again, in a batch of 64",
        ("-m", "serval_sglang.consistency", "--model", "{model}", "--device", "cuda", *adapter.FP8_BOUND),
        expected_s=420,
        limit_s=1800,
        needs=Needs(packages=_ENGINE, gpu_memory_gib=130, model=True),
        after=(adapter.CONSISTENT,),
    ),
    Step(
        "model: drafts",
        "the real weights in FP8: the same answers with drafts; tokens/s, acceptance of documented prompts",
        (*adapter.DRAFT_BENCH, "--model", "{model}", "--documented", *adapter.FP8_BOUND),
        expected_s=1200,
        limit_s=3600,
        needs=Needs(packages=_ENGINE, gpu_memory_gib=130, model=True),
        after=(adapter.DRAFTS,),
        measures=True,
    ),
)
