"""Building CUDA extensions without a GPU: its order, and what it does about one that fails."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from serval_sglang.cuda_extensions import build
from serval_sglang.cuda_extensions.needed import Extension

NAMES = ("first", "second", "third")
EXTENSIONS = [Extension(factory=f"{name}:make", used="in this test") for name in NAMES]


def test_build_extensions_imports_every_factory_before_it_builds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building may load a stub of the driver, whose version the import of flashinfer refuses."""
    done: list[str] = []

    def import_module(name: str) -> Any:
        done.append(f"import {name}")
        if name == "second":
            raise ImportError(name)

    def library_of(extension: Extension) -> Path:
        done.append(f"build {extension.factory}")
        if extension.factory == "second:make":
            raise ImportError("no second")
        return Path("library.so")

    monkeypatch.setattr(importlib, "import_module", import_module)
    monkeypatch.setattr(build, "library_of", library_of)
    built = build.build_extensions(EXTENSIONS, (9, 0))
    imports, builds = [f"import {name}" for name in NAMES], [f"build {name}:make" for name in NAMES]
    assert done == [*imports, *builds]
    assert [one.problem for one in built] == [None, "no second", None]
