"""Compiled kernels of the image in the user's cache."""

import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serval_sglang.kernel_cache import add_prebuilt_kernels, sglang_cache

# Folder of each program that keeps what it has compiled, as an engine's processes resolve them.
CACHES = """
import sglang
import os, triton
from torch._inductor.runtime.cache_dir_utils import cache_dir
from sglang.kernels.jit.utils.compile.cache import cache_root
from sglang.srt.environ import envs
by_variable = (os.environ["FLASHINFER_WORKSPACE_BASE"], os.environ["CUDA_CACHE_PATH"])
deep_gemm = envs.SGLANG_DG_CACHE_DIR.get()
print(triton.knobs.cache.dir, cache_dir(), *by_variable, deep_gemm, cache_root(), sep="\\n")
"""


def test_all_compiled_kernels_are_kept_in_the_volume(tmp_path: Path) -> None:
    """Not in /tmp: Docker mounts it without the right to execute, and a pod loses it."""
    environment = {"HOME": str(tmp_path), "PATH": os.defpath}
    command = [sys.executable, "-P", "-c", CACHES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    folders = [Path(line) for line in done.stdout.splitlines()]
    assert len(folders) == 6
    assert {folder for folder in folders if not folder.is_relative_to(sglang_cache(environment))} == set()


def test_add_prebuilt_kernels_adds_what_is_missing_and_changes_nothing(tmp_path: Path) -> None:
    prebuilt, cache = tmp_path / "image", tmp_path / "home" / ".cache" / "sglang"
    for name, text in {"jit/a.so": "of the image", "jit/b.so": "of the image"}.items():
        (prebuilt / name).parent.mkdir(parents=True, exist_ok=True)
        (prebuilt / name).write_text(text)
        os.utime(prebuilt / name, (1000, 1000))
    (cache / "jit").mkdir(parents=True)
    (cache / "jit" / "b.so").write_text("compiled here")
    add_prebuilt_kernels(prebuilt, cache)
    assert (cache / "jit" / "a.so").read_text() == "of the image"
    assert (cache / "jit" / "a.so").stat().st_mtime == 1000
    assert (cache / "jit" / "b.so").read_text() == "compiled here"
    assert sorted(path.name for path in (cache / "jit").iterdir()) == ["a.so", "b.so"]


def test_add_prebuilt_kernels_may_run_twice_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prebuilt, cache = tmp_path / "image", tmp_path / "cache"
    prebuilt.mkdir()
    (prebuilt / "a.so").write_text("of the image")
    together = threading.Barrier(2, timeout=60)
    copy = shutil.copy2

    def copy_together(source: str, target: str) -> None:
        together.wait()
        copy(source, target)
        together.wait()

    monkeypatch.setattr(shutil, "copy2", copy_together)
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(add_prebuilt_kernels, prebuilt, cache) for _ in range(2)]:
            future.result()
    assert {path.name: path.read_text() for path in cache.iterdir()} == {"a.so": "of the image"}


def test_sglang_cache_is_below_home() -> None:
    assert sglang_cache({"HOME": "/var/cache/serval"}) == Path("/var/cache/serval/.cache/sglang")
