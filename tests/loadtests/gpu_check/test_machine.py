"""GPUs as the driver's program lists them."""

from pathlib import Path

import pytest

from serval_load.gpu_check.machine import Gpu, this_machine

H200 = "NVIDIA H200, 143771, 512, 9.0, 580.159.03"


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_machine_lists_gpus_and_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Answers only if asked for these columns, in this order.
    asked = '[ "$1" = --query-gpu=name,memory.total,memory.used,compute_cap,driver_version ] || exit 2'
    nvidia_smi(tmp_path, monkeypatch, f"{asked}\nprintf '{H200}\\n{H200}\\n'")
    machine = this_machine()
    assert machine.gpus == (Gpu("NVIDIA H200", 143771 / 1024, 0.5, 9.0),) * 2
    assert str(machine).startswith("NVIDIA H200, NVIDIA H200, driver 580.159.03; Python 3.")


def test_machine_takes_a_gpu_that_does_not_tell_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, monkeypatch, "echo 'NVIDIA GB10, [N/A], [N/A], 12.1, 580.1'")
    assert this_machine().gpus == (Gpu("NVIDIA GB10", 0.0, 0.0, 12.1),)


@pytest.mark.parametrize("script", ["exit 9", "echo No devices were found", "true"])
def test_machine_has_no_gpu_if_the_driver_lists_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    nvidia_smi(tmp_path, monkeypatch, script)
    assert this_machine().gpus == ()
