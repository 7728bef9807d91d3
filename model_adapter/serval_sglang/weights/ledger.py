"""Check that a checkpoint holds every tensor of the model, in its shape, and no unknown ones."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from serval_sglang.checkpoint.fp8 import SCALE_SUFFIX, is_quantized_layer
from serval_sglang.checkpoint.layout import (
    ALIASES,
    MTP_PREFIX,
    Shape,
    mtp_tensor_shapes,
    table_name,
    tensor_shapes,
    usual_name,
)
from serval_sglang.checkpoint.quantization import holds_values, layer_name
from serval_sglang.config import LongcatConfig

_LISTED = 20


class CheckpointMismatch(ValueError):
    """The checkpoint's tensors are not those of the model."""


class TensorLedger:
    """Records which of a model's tensors have arrived.

    `config` names the tensors. If `quantised`, linear layers may come in several parts instead of one
    `weight`; `block` is the (output, input) size of the blocks that share a scale, if FP8 has blocks. If
    `coded_tables`, the n-gram tables are in eight bits and have scales.
    """

    def __init__(
        self,
        config: LongcatConfig,
        *,
        quantised: bool,
        coded_tables: bool,
        block: Sequence[int] | None = None,
    ) -> None:
        self._quantised = quantised
        self._block = block
        self._shapes = tensor_shapes(config)
        scales = [table_name(i, part="weight_scale") for i in range(config.ngram_table_count)]
        self._table_scales = frozenset(scales if coded_tables else ())
        self._missing = {self._stem(name) for name in self._shapes} | self._table_scales
        self._known = frozenset(self._missing)
        self._ignored = frozenset(mtp_tensor_shapes(config))
        self._unknown: list[str] = []
        self._in_blocks: set[str] = set()
        self._scales: set[str] = set()

    def received(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors that the model uses, under its own names, and record the others.

        A tensor that a copy repeats under an alias is yielded twice, because either may be the only one.

        Raises `CheckpointMismatch` for a tensor of another shape than the model's. SGLang would not: a rank
        takes its piece of any tensor that is large enough, and fills what a smaller one leaves of an expert
        with zeros.
        """
        for stored_name, tensor in weights:
            name = ALIASES.get(stored_name, usual_name(stored_name))
            stem = self._stem(name)
            if stem in self._known:
                if holds_values(name) or name in self._table_scales:
                    self._missing.discard(stem)
                self._require_shape(name, tensor)
                self._note_blocks(name, tensor)
                yield name, tensor
            elif not self._is_ignored(name):
                self._unknown.append(name)

    def require_known(self) -> None:
        """Raise `CheckpointMismatch`, listing them, if there are tensors that no part of the model uses."""
        if self._unknown:
            raise CheckpointMismatch(
                f"the checkpoint holds {len(self._unknown)} tensors this model does not have: "
                f"{_listed(self._unknown)}. Is it another architecture, or does config.json not belong to it?"
            )

    def require_complete(self) -> None:
        """Raise `CheckpointMismatch`, listing missing and unknown tensors, if any have not arrived."""
        missing = self._missing | (self._in_blocks - self._scales)
        if missing:
            found = f"lacks {len(missing)} tensors: {_listed(sorted(missing))}"
            if self._unknown:
                found += f", and holds {len(self._unknown)} unknown ones: {_listed(self._unknown)}"
            raise CheckpointMismatch(
                f"the checkpoint {found}. Is a shard missing, or does config.json not belong to it?"
            )

    def _require_shape(self, name: str, tensor: Tensor) -> None:
        expected, found = self._shape_of(name, tensor), tuple(tensor.shape)
        if expected is not None and found != expected:
            raise CheckpointMismatch(
                f"{name} has shape {found}, and config.json describes {expected}: do both belong to the same "
                "checkpoint?"
            )

    def _shape_of(self, name: str, tensor: Tensor) -> Shape | None:
        """Return the shape that the tensor must have; None if it depends on the quantisation method."""
        if name in self._shapes:
            # Some methods pack several values into each integer.
            return self._shapes[name] if tensor.is_floating_point() else None
        weight = f"{name.removesuffix(SCALE_SUFFIX)}.weight"
        if self._block is None or not name.endswith(SCALE_SUFFIX) or weight not in self._shapes:
            return None
        return tuple(-(-size // block) for size, block in zip(self._shapes[weight], self._block, strict=True))

    def _note_blocks(self, name: str, tensor: Tensor) -> None:
        """Note layers that need the scales of their blocks: SGLang would keep the value it started with, 1
        for experts."""
        if name.endswith(SCALE_SUFFIX):
            self._scales.add(name)
        elif self._block and tensor.dtype == torch.float8_e4m3fn and is_quantized_layer(name):
            self._in_blocks.add(name.removesuffix(".weight") + SCALE_SUFFIX)

    def _stem(self, name: str) -> str:
        """Return the name of the layer if its tensors depend on the quantisation method, else `name`."""
        if name in self._table_scales or not self._quantised:
            return name
        return layer_name(name)

    def _is_ignored(self, name: str) -> bool:
        # Quantised copies may hold scales of the MTP layer as well.
        return name in self._ignored or (self._quantised and name.startswith(MTP_PREFIX))


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"
