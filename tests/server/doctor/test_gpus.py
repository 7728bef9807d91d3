"""Checks of GPUs, flashinfer and compilers."""

import importlib.metadata
import re
from pathlib import Path

import pytest

from serval.doctor import gpus as checks
from serval.doctor.gpus import Gpu, Gpus, cuda_compiler, find_gpus, flashinfer, gpu
from serval.doctor.packages import pinned_version
from serval_sglang.cuda_toolkit import find_compilers

HOPPER = Gpus((Gpu("NVIDIA H200, 143771 MiB", "9.0"),))
SGLANG = Path(str(importlib.metadata.distribution("sglang").locate_file("sglang")))


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Let only these distributions be installed; underscores in names are hyphens."""
    found = {name.replace("_", "-"): version for name, version in versions.items()}
    monkeypatch.setattr(checks, "installed_version", found.get)


def programs(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let only these programs be on the PATH."""
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name in names else None)


def test_gpu_lists_what_the_driver_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'H100 80GB, 81559 MiB, 9.0'\n")
    program.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(program))
    assert find_gpus().found == (Gpu("H100 80GB, 81559 MiB", "9.0"),)
    assert gpu(find_gpus()).says == "H100 80GB, 81559 MiB"
    program.write_text("#!/bin/sh\n")
    assert gpu(find_gpus()).state == "warning"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpu(find_gpus()).state == "failed"


def test_gpu_warns_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    programs(monkeypatch)
    finding = gpu(find_gpus())
    assert finding.state == "warning"
    assert "no NVIDIA driver" in finding.says


@pytest.mark.parametrize(
    ("capability", "backend"),
    [
        ("9.0", "fa3"),
        ("10.0", "trtllm_mla"),
        ("10.3", "trtllm_mla"),
        ("8.0", "triton"),
        ("12.0", "triton"),
        ("[N/A]", "triton"),
    ],
)
def test_flashinfer_names_the_attention_backend_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capability: str, backend: str
) -> None:
    install(monkeypatch, sglang="0.5.23", flashinfer_python=pinned_version("sglang", "flashinfer-python"))
    finding = flashinfer(Gpus((Gpu("a GPU", capability),)))
    assert finding.state == "ok"
    assert f"attention: {backend}; sampling: flashinfer" in finding.says


def test_flashinfer_of_another_version_or_none_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = pinned_version("sglang", "flashinfer-python")
    install(monkeypatch, sglang="0.5.23", flashinfer_python="0.1.0")
    assert flashinfer(HOPPER).state == "failed"
    assert f"0.1.0 is installed, SGLang needs {pinned}" in flashinfer(HOPPER).says
    install(monkeypatch, sglang="0.5.23")
    assert flashinfer(HOPPER).state == "failed"
    assert "not installed" in flashinfer(HOPPER).says


def test_flashinfer_and_compiler_are_not_needed_without_gpu_or_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs(monkeypatch)
    install(monkeypatch, sglang="0.5.23")
    assert (flashinfer(Gpus()).state, cuda_compiler(Gpus(), {}).state) == ("ok", "ok")
    install(monkeypatch)
    assert (flashinfer(HOPPER).state, cuda_compiler(HOPPER, {}).state) == ("ok", "ok")


def test_cuda_compiler_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, sglang="0.5.23")
    finding = cuda_compiler(HOPPER, {"PATH": "/nowhere", "CUDA_HOME": "/nowhere"})
    assert finding.state == "failed"
    assert "not found: nvcc, c++;" in finding.says
    assert "Debian's package g++" in finding.says


def test_cuda_compiler_looks_where_the_launcher_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, sglang="0.5.23")
    (tmp_path / "g++-13").touch(mode=0o755)
    environment = {"PATH": str(tmp_path), "CXX": "g++-13", "HOME": str(tmp_path)}
    finding = cuda_compiler(HOPPER, environment)
    # nvcc and ninja of the locked packages, or of a toolkit on this machine.
    assert finding.state == "ok", finding.says
    found = find_compilers(environment)
    assert finding.says == f"{found.nvcc}, {found.cxx}, {found.ninja}"
    assert list(tmp_path.iterdir()) == [tmp_path / "g++-13"]


def test_other_gpus_get_the_backend_that_sglang_chooses() -> None:
    """Contract with the lines named in serval/doctor/gpus.py, for GPUs that tests/model_adapter/imitated_gpu
    does not imitate."""
    source = (SGLANG / "srt/arg_groups/model_override_base.py").read_text()
    function = source.split("def get_default_attn_backend(")[1].split("\ndef ")[0]
    chosen = function.split("# MLA architecture")[1]
    assert re.findall(r"if get_platform\(\)\.(\w+):", chosen) == [
        "is_hopper_with_cuda_12_3",
        "is_sm100",
        "is_hip",
    ]
    assert re.search(r'else:\s+return "triton"\s+$', chosen)
    majors = (SGLANG / "srt/utils/common.py").read_text()
    assert re.search(r"is_hopper_with_cuda_12_3 = .{,120}majors=\[9\]", majors, re.DOTALL)
    assert re.search(r"is_sm100_supported = .{,120}majors=\[10\]", majors, re.DOTALL)
