"""The kernels alone: torch and Triton are enough.

`FIRST` fills the first five minutes. `REST` comes after the adapter: where there is one, the first engine
tells more.
"""

from serval_load.gpu_check.step import Needs, Step

_TRITON = ("torch", "triton")
_INTERPRETER = {"TRITON_INTERPRET": "1"}
_CHECK = ("-m", "serval_kernels.device_check")
_BENCH = ("-m", "serval_kernels.bench", "--json", "{rows}", "--resume")
_SMALL = ("--device", "cpu", "--rows", "5000")
# Outside this repository's environment pytest must not read its configuration, which names plugins.
_PYTEST = (
    "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", ".", "--confcutdir", "tests/kernels",
    "--import-mode=importlib", "-p", "no:cacheprovider", "--maxfail", "8",
)  # fmt: skip
_FEW = ("--tokens", "1", "64", "8192")

STATE = "kernels: state"
TABLES = "kernels: full tables"
HOST = "kernels: host tables"


def _check(*names: str) -> tuple[str, ...]:
    return (*_CHECK, *names)


def _bench(*options: str) -> tuple[str, ...]:
    return (*_BENCH, "--device", "cuda", "--seconds", "0.1", *options)


def _small_bench(table: str) -> tuple[str, ...]:
    return (
        *_BENCH, "--device", "cpu", "--seconds", "0.01", "--table-rows", "50000",
        "--tokens", "1", "16", "--tables", table,
    )  # fmt: skip


_SMALL_CHECKS = ("decode", "prefill", "router", "experts", "embedding")

FIRST = (
    Step(
        STATE,
        "state that a CUDA graph replays, ragged prefill, router, identity experts, embedding = torch",
        _check(*_SMALL_CHECKS),
        expected_s=30,
        limit_s=150,
        needs=Needs(packages=_TRITON),
        rehearsal=(*_check(*_SMALL_CHECKS), *_SMALL),
        rehearsal_environment=_INTERPRETER,
    ),
    Step(
        TABLES,
        "rows of tables of 62.8 GB, of half their columns, of 8-bit codes: offsets beyond 32 bits",
        _check("tables", "8-bit tables"),
        expected_s=25,
        limit_s=120,
        needs=Needs(packages=_TRITON, gpu_memory_gib=8),
        rehearsal=(*_check("tables", "8-bit tables"), *_SMALL),
        rehearsal_environment=_INTERPRETER,
    ),
    Step(
        HOST,
        "rows of 62.8 GB of pinned host memory, read from inside a CUDA graph",
        _check("host tables"),
        expected_s=50,
        limit_s=150,
        needs=Needs(packages=_TRITON, host_memory_gib=16),
        rehearsal=(*_check("host tables"), *_SMALL),
        rehearsal_environment=_INTERPRETER,
    ),
    Step(
        "kernels: tests",
        "the kernels' own tests, compiled for this GPU: odd shapes, bad input, pinned memory, streams",
        (
            *_PYTEST,
            "tests/kernels/on_triton",
            "tests/model_adapter/layers/test_side_stream.py",
            "tests/model_adapter/layers/test_ngram_tables.py",
        ),
        expected_s=90,
        limit_s=240,
        needs=Needs(packages=(*_TRITON, "pytest", "hypothesis")),
        rehearsal=(*_PYTEST, "tests/kernels/on_triton"),
        rehearsal_environment=_INTERPRETER,
    ),
    Step(
        "kernels: times",
        "each operation beside the built-in algorithm and its floor, tables on the GPU",
        _bench("--tables", "device"),
        expected_s=75,
        limit_s=150,
        needs=Needs(packages=_TRITON, gpu_memory_gib=75),
        after=(STATE, TABLES),
        measures=True,
        rehearsal=_small_bench("device"),
    ),
)

REST = (
    Step(
        "kernels: times, host",
        "the same with tables in pinned host memory: does the bus cost more than 3 % of a step?",
        _bench("--tables", "host", *_FEW),
        expected_s=75,
        limit_s=150,
        needs=Needs(packages=_TRITON, host_memory_gib=80),
        after=(STATE, HOST),
        measures=True,
    ),
    Step(
        "kernels: times, 8 bit",
        "the same with 8-bit tables on the GPU and in host memory",
        _bench("--tables", "int8", "fp8", "host-int8", *_FEW),
        expected_s=75,
        limit_s=150,
        needs=Needs(packages=_TRITON, gpu_memory_gib=40, host_memory_gib=48),
        after=(STATE, TABLES, HOST),
        measures=True,
        rehearsal=_small_bench("int8"),
    ),
    Step(
        "kernels: memory",
        "no kernel touches memory that is not its own (compute-sanitizer)",
        (*_check("decode", "prefill", "router", "experts", "tables"), "--rows", "200000"),
        expected_s=90,
        limit_s=240,
        needs=Needs(packages=_TRITON, programs=("compute-sanitizer",)),
        programs_first=("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "1"),
    ),
)
