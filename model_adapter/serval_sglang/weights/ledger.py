"""Check that a checkpoint holds every tensor of the model and no unknown ones."""

from collections.abc import Collection, Iterable, Iterator

from torch import Tensor

from serval_sglang.checkpoint.layout import ALIASES, mtp_tensor_shapes, table_name, tensor_shapes
from serval_sglang.checkpoint.quantization import holds_values, layer_name
from serval_sglang.config import LongcatConfig

_LISTED = 20


class CheckpointMismatch(ValueError):
    """The checkpoint's tensors are not those of the model."""


class TensorLedger:
    """Records which of a model's tensors have arrived.

    `config` names the tensors. If `quantised`, linear layers may come in several parts instead of one
    `weight`; if `coded_tables`, the n-gram tables are in eight bits and have scales.
    """

    def __init__(self, config: LongcatConfig, *, quantised: bool, coded_tables: bool) -> None:
        self._quantised = quantised
        scales = [table_name(i, part="weight_scale") for i in range(config.ngram_table_count)]
        self._table_scales = frozenset(scales if coded_tables else ())
        self._missing = {self._stem(name) for name in tensor_shapes(config)} | self._table_scales
        self._known = frozenset(self._missing)
        self._ignored = frozenset(mtp_tensor_shapes(config))
        self._unknown: list[str] = []

    def received(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors that the model uses, under its own names, and record the others.

        A tensor that a copy repeats under an alias is yielded twice, because either may be the only one.
        """
        for stored_name, tensor in weights:
            name = ALIASES.get(stored_name, stored_name)
            stem = self._stem(name)
            if stem in self._known:
                if holds_values(name) or name in self._table_scales:
                    self._missing.discard(stem)
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
        if self._missing:
            found = f"lacks {len(self._missing)} tensors: {_listed(sorted(self._missing))}"
            if self._unknown:
                found += f", and holds {len(self._unknown)} unknown ones: {_listed(self._unknown)}"
            raise CheckpointMismatch(
                f"the checkpoint {found}. Is a shard missing, or does config.json not belong to it?"
            )

    def _stem(self, name: str) -> str:
        """Return the name of the layer if its tensors depend on the quantisation method, else `name`."""
        if name in self._table_scales or not self._quantised:
            return name
        return layer_name(name)

    def _is_ignored(self, name: str) -> bool:
        # Quantised copies may hold scales of the MTP layer as well.
        return name in self._ignored or (self._quantised and name.startswith("model.mtp."))


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"
