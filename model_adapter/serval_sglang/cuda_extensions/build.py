"""Building extensions into the caches in which SGLang and flashinfer look, for a GPU that may be absent.

Run in a process of its own for each capability, because both remember the GPU that they saw first. The
functions that build are theirs, so flags, sources and the cache's key are those of a later start.
"""

from __future__ import annotations

import ctypes
import importlib
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from serval_sglang.cuda_extensions.imitation import capability_of_target
from serval_sglang.cuda_extensions.needed import Capability, Extension


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A library, or the problem that prevented it, and the seconds it took: near 0 if the cache had it."""

    extension: Extension
    library: Path | None
    seconds: float
    problem: str | None = None


def build_extensions(extensions: Sequence[Extension], capability: Capability) -> list[Built]:
    """Build each extension, one after another; go on after one that fails."""
    with capability_of_target(*capability):
        # Imports come first: flashinfer's refuses the version 0.0 of a stub of the driver (`_load_driver`).
        # One that fails is reported when its extension is built.
        for extension in extensions:
            with suppress(Exception):
                importlib.import_module(_module_and_name(extension)[0])
        return [_build(extension) for extension in extensions]


def _build(extension: Extension) -> Built:
    began = time.monotonic()
    try:
        library = library_of(extension)
    except Exception as error:  # noqa: BLE001  # whatever a compiler or loader raises is the answer
        return Built(
            extension=extension, library=None, seconds=time.monotonic() - began, problem=str(error)[-2000:]
        )
    return Built(extension=extension, library=library, seconds=time.monotonic() - began)


def library_of(extension: Extension) -> Path:
    """Build the extension unless its cache has it, and return the library."""
    module, name = _module_and_name(extension)
    factory = getattr(importlib.import_module(module), name)
    if module.startswith("flashinfer."):
        specification = factory(*extension.arguments)
        specification.build(need_lock=True)
        return Path(specification.get_library_path())
    return _library_of_sglang(factory, extension.arguments)


def _module_and_name(extension: Extension) -> tuple[str, str]:
    module, _, name = extension.factory.partition(":")
    return module, name


def _library_of_sglang(factory: Any, arguments: tuple[object, ...]) -> Path:
    """Call a factory that ends in SGLang's `load_jit`, which loads a library before it publishes it."""
    from sglang.kernels.jit.utils.compile import cache, loader, toolchain

    def load(library: Path) -> Any:
        loaded.append(library)
        return original(library)

    _load_driver(Path(toolchain.cuda_stubs_dir()) / "libcuda.so")
    original, loaded = loader._load, list[Path]()
    with patch.object(loader, "_load", load):
        factory(*arguments)
    # A library that was built just now was loaded from a folder that has been renamed since.
    (library,) = loaded
    if library.exists():
        return library
    scope, name = library.parent.parent, library.stem
    published: Path | None = cache.find_prebuilt(scope=scope, module_name=name)
    if published is None:
        raise RuntimeError(f"SGLang has built {name} but does not find it again in {scope}.")
    return published


def _load_driver(stub: Path) -> None:
    """Load the driver, or the toolkit's library of its names, so that libraries that need it are loaded."""
    for library in ("libcuda.so.1", str(stub)):
        with suppress(OSError):
            ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
            return
