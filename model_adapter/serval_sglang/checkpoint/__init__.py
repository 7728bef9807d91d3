"""Checkpoints of LongCat-Flash-Lite: layout, reading, writing, and random ones for tests."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serval_sglang.checkpoint.files import CheckpointError, load_config
    from serval_sglang.checkpoint.io import load_mtp_layer, load_reference, load_state_dict, save_checkpoint
    from serval_sglang.checkpoint.layout import mtp_tensor_shapes, tensor_shapes
    from serval_sglang.checkpoint.random import random_state_dict, tiny_config
    from serval_sglang.checkpoint.tiny import write_tiny_checkpoint

__all__ = [
    "CheckpointError",
    "load_config",
    "load_mtp_layer",
    "load_reference",
    "load_state_dict",
    "mtp_tensor_shapes",
    "random_state_dict",
    "save_checkpoint",
    "tensor_shapes",
    "tiny_config",
    "write_tiny_checkpoint",
]

_MODULES = {
    "CheckpointError": "files",
    "load_config": "files",
    "load_mtp_layer": "io",
    "load_reference": "io",
    "load_state_dict": "io",
    "mtp_tensor_shapes": "layout",
    "random_state_dict": "random",
    "save_checkpoint": "io",
    "tensor_shapes": "layout",
    "tiny_config": "random",
    "write_tiny_checkpoint": "tiny",
}


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562), because some modules need torch, which takes seconds to import."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
