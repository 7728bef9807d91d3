"""An engine that certainly does not fit is refused; one that may fit is started."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from serval_sglang import memory_check
from serval_sglang.checkpoint.inspection import Inspection, PartSize, inspect_checkpoint
from serval_sglang.checkpoint.parts import Part
from serval_sglang.checkpoint.quantization import Quantization
from serval_sglang.gpu_memory import UnknownMemoryError
from serval_sglang.known_configs import LITE
from serval_sglang.machine_part import MachinePart
from serval_sglang.memory_check import missing_memory
from serval_sglang.options import DEMO_MODEL, EngineOptions

GIB = 1 << 30
BF16_BYTES = 137 * 10**9
FP8 = Quantization(method="fp8", weight_bits=8, group_size=None, block=(128, 128))
AWQ = Quantization(method="awq", weight_bits=4, group_size=128, block=None)


def part(size_bytes: int, *dtypes: str) -> PartSize:
    return PartSize(tensors=1, parameters=1, size_bytes=size_bytes, dtypes=dtypes)


def checkpoint(quantization: Quantization | None = None, table_dtype: str | None = None) -> Inspection:
    parts: Mapping[Part, PartSize] = {
        Part.NGRAM_TABLES: part(63 * 10**9, "BF16" if table_dtype is None else "I8"),
        Part.EXPERTS: part(BF16_BYTES - 63 * 10**9, "BF16"),
    }
    return Inspection(
        architecture="LongcatFlashNgramForCausalLM",
        config=LITE,
        quantization=quantization,
        table_dtype=table_dtype,
        files=1,
        parts=parts,
        missing=(),
        unknown=(),
        misshapen=(),
        unread=(),
        problems=(),
        lacks=(),
        unsafe=(),
    )


@pytest.mark.parametrize(
    ("gib", "tp", "found", "tables_on_host", "flags", "fits"),
    [
        (79.6, 1, checkpoint(), False, "", False),
        (79.6, 2, checkpoint(), False, "", True),
        (79.6, 1, checkpoint(FP8), True, "", True),
        (79.6, 1, checkpoint(FP8), False, "", False),
        (79.6, 1, checkpoint(FP8, "int8"), False, "", True),
        # A chunk of half the usual size leaves 4 GiB more.
        (140.4, 1, checkpoint(), False, "", False),
        (140.4, 1, checkpoint(), False, "--chunked-prefill-size 4096", True),
        # SGLang's flags change what is kept free, and with --quantization what the weights take.
        (140.4, 1, checkpoint(), False, "--mem-fraction-static 0.8", False),
        (79.6, 2, checkpoint(), False, "--mem-fraction-static=0.7", False),
        (79.6, 2, checkpoint(), False, "--mem-fraction-static=nonsense", True),
        (79.6, 2, checkpoint(), False, "--mem-fraction-static=nan --chunked-prefill-size=inf", True),
        (140.4, 1, checkpoint(), False, "--chunked-prefill-size 4096 --mem-fraction-static 0.9", False),
        (140.4, 1, checkpoint(), False, "--mem-fraction-static 0.8 --quantization fp8", True),
        (79.6, 1, checkpoint(AWQ), False, "", False),
        (140.4, 1, checkpoint(AWQ), False, "", True),
    ],
)
def test_missing_memory_refuses_what_the_plan_leaves_no_room_for(
    monkeypatch: pytest.MonkeyPatch,
    gib: float,
    tp: int,
    found: Inspection,
    tables_on_host: bool,
    flags: str,
    fits: bool,
) -> None:
    monkeypatch.setattr(memory_check, "gpu_memory_bytes", lambda: round(gib * GIB))
    options = EngineOptions(model=Path("m"), device="cuda", tp=tp, sglang_flags=flags.split())
    says = missing_memory(found, options, tables_on_host=tables_on_host)
    assert (says == []) is fits, says
    assert fits or "`serval plan" in says[0]


def test_missing_memory_names_sizes_that_cannot_be_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "gpu_memory_bytes", lambda: 140 * GIB)
    options = EngineOptions(model=Path("m"), device="cuda", tp=3)
    assert "cannot be shared by 3 ranks" in missing_memory(checkpoint(), options, tables_on_host=False)[0]


def test_missing_memory_leaves_unknown_memory_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> int:
        raise UnknownMemoryError

    monkeypatch.setattr(memory_check, "gpu_memory_bytes", unknown)
    assert (
        missing_memory(checkpoint(), EngineOptions(model=Path("m"), device="cuda"), tables_on_host=False)
        == []
    )


@pytest.mark.parametrize(
    ("machine", "tables_on_host", "flags", "fits"),
    [(100, False, [], False), (200, False, [], True), (200, False, ["--dp-size=2"], False)],
)
def test_missing_memory_on_a_cpu_compares_with_the_machine(
    monkeypatch: pytest.MonkeyPatch, machine: int, tables_on_host: bool, flags: list[str], fits: bool
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": machine * 10**6, "SC_PAGE_SIZE": 1000}.__getitem__)
    options = EngineOptions(model=Path("m"), device="cpu", tp=2, sglang_flags=flags)
    says = missing_memory(checkpoint(), options, tables_on_host=tables_on_host)
    assert (says == []) is fits, says


@pytest.mark.parametrize(("mtp_steps", "fits"), [(0, True), (3, False)])
def test_missing_memory_counts_the_mtp_layer_only_with_drafts(
    monkeypatch: pytest.MonkeyPatch, mtp_steps: int, fits: bool
) -> None:
    demo = inspect_checkpoint(DEMO_MODEL)
    without = sum(size.size_bytes for part, size in demo.parts.items() if part is not Part.MTP)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": without, "SC_PAGE_SIZE": 1}.__getitem__)
    options = EngineOptions(model=DEMO_MODEL, device="cpu", mtp_steps=mtp_steps)
    assert (missing_memory(demo, options, tables_on_host=False) == []) is fits


@pytest.mark.parametrize(("engines", "fits"), [(1, True), (3, True), (4, False)])
def test_missing_memory_counts_all_engines_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, engines: int, fits: bool
) -> None:
    """Each takes the weights, 137 GB, and its libraries."""
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 430 * 10**6, "SC_PAGE_SIZE": 1000}.__getitem__)
    options = EngineOptions(model=Path("m"), device="cpu", machine_part=MachinePart(0, engines))
    says = missing_memory(checkpoint(), options, tables_on_host=False)
    assert (says == []) is fits
    assert fits or "4 engines take at least 514.9 GiB, and this machine has 400.5; start fewer" in says[0]
