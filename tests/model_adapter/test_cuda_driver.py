"""GPUs are counted by CUDA's driver, without torch."""

import shutil
import subprocess
from pathlib import Path

import pytest

from serval_sglang.cuda_driver import visible_gpus

DRIVER = """
int cuInit(unsigned int flags) { return INIT; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
"""


def imitated_driver(folder: Path, *, init: int, count: int) -> str:
    source, library = folder / "driver.c", folder / "driver.so"
    source.write_text(DRIVER)
    command = ["cc", "-shared", "-fPIC", f"-DINIT={init}", f"-DCOUNT={count}", "-o", library, source]
    subprocess.run(command, check=True)
    return str(library)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: Debian's package gcc")
@pytest.mark.parametrize(
    ("init", "count", "gpus"),
    [(0, 2, 2), (0, 0, 0), (100, 2, 0)],
    ids=["two", "none", "no device: error 100"],
)
def test_visible_gpus_asks_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: int, count: int, gpus: int
) -> None:
    monkeypatch.setattr("serval_sglang.cuda_driver.DRIVER", imitated_driver(tmp_path, init=init, count=count))
    assert visible_gpus() == gpus


def test_visible_gpus_without_a_driver_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serval_sglang.cuda_driver.DRIVER", "libabsent.so.1")
    assert visible_gpus() == 0
