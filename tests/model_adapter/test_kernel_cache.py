"""Compiled kernels of the image in the user's cache."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serval_sglang.kernel_cache import add_prebuilt_kernels, sglang_cache


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
