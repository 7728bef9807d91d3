"""Memory of the GPUs, as a stand-in for nvidia-smi reports it."""

from pathlib import Path

import pytest

from serval_sglang.gpu_memory import UnknownMemoryError, gpu_memory_bytes


@pytest.mark.parametrize(
    ("output", "code", "expected"),
    [
        ("81559\n81559\n", 0, 81559 << 20),
        ("143771\n81559\n", 0, 81559 << 20),
        ("", 0, None),
        ("NVIDIA-SMI has failed\n", 9, None),
    ],
)
def test_gpu_memory_is_that_of_smallest_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, code: int, expected: int | None
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{output}'\nexit {code}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if expected is None:
        with pytest.raises(UnknownMemoryError, match="give --gpu-memory-gib"):
            gpu_memory_bytes()
    else:
        assert gpu_memory_bytes() == expected
