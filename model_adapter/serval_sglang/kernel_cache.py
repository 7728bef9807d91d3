"""Compiled kernels that came with the engine's image, put into the user's cache before an engine starts.

SGLang, Triton, flashinfer and DeepGEMM look up compiled kernels below `~/.cache/sglang` by their contents
(`redirect_third_party_caches` in UPSTREAM.md) and add new ones there, so it is a volume. A volume that is
older than the image, or of Kubernetes, does not hold the image's kernels.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path


def sglang_cache(environment: Mapping[str, str]) -> Path:
    """Return the folder of compiled kernels of a process with these variables."""
    return Path(environment.get("HOME") or Path.home()) / ".cache" / "sglang"


def add_prebuilt_kernels(prebuilt: Path, cache: Path) -> None:
    """Copy files below `prebuilt` to the same places below `cache`, except those that are there already.

    Modification times are kept, because flashinfer compares them. Engines that share a cache may do this at
    the same time. Raises `OSError`.
    """
    shutil.copytree(prebuilt, cache, dirs_exist_ok=True, copy_function=_copy_if_absent)


def _copy_if_absent(source: str, target: str) -> None:
    if not os.path.exists(target):
        part = f"{target}.{uuid.uuid4().hex}"
        shutil.copy2(source, part)
        os.replace(part, target)
