"""Records which part of which tensor is copied where, for tensors without values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_DERIVING = (torch.ops.aten.cat.default, torch.ops.aten._to_copy.default, torch.ops.aten.mul.Tensor)

# One (start, stop) for each dimension of a tensor.
Box = tuple[tuple[int, int], ...]


class Copy(NamedTuple):
    """A copy of a box of one tensor to a box of another; tensors are named, None if they have no name."""

    source: str | None
    source_box: Box | None
    target: str | None
    target_box: Box | None


class RecordedCopies(TorchDispatchMode):
    """While active, records every copy to a tensor in `targets`.

    Add sources as they come. Both are recognised by their storage, of which they must be the only tensors.
    What is computed from whole sources counts as a source whose name joins theirs with "+".
    """

    def __init__(self, targets: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {_storage(tensor): (name, tensor) for name, tensor in targets.items()}
        self._targets = frozenset(targets)
        self.copies: list[Copy] = []

    def add_source(self, name: str, tensor: Tensor) -> None:
        self._names[_storage(tensor)] = (name, tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _DERIVING:
            self._add_derived(result, args[0] if isinstance(args[0], (list, tuple)) else args[:1])
        if func is torch.ops.aten.copy_.default and isinstance(args[1], Tensor):
            target, target_box = self._box(args[0])
            if target in self._targets:
                self.copies.append(Copy(*self._box(args[1]), target, target_box))
        return result

    def _add_derived(self, result: Tensor, parts: Iterable[Tensor]) -> None:
        names = [self._names.get(_storage(part), (None, part))[0] for part in parts]
        if None not in names:
            self._names[_storage(result)] = ("+".join(map(str, names)), result)

    def _box(self, view: Tensor) -> tuple[str | None, Box | None]:
        name, whole = self._names.get(_storage(view), (None, None))
        return name, None if whole is None else box_of(view, whole)


def box_of(view: Tensor, whole: Tensor) -> Box:
    """Return the box of the contiguous tensor `whole` that `view` covers, whatever the order of its
    dimensions. Raises ValueError if it is not a box."""
    sizes = {stride: size for size, stride in zip(view.shape, view.stride(), strict=True) if size > 1}
    offset, box = view.storage_offset(), []
    for size, stride in zip(whole.shape, whole.stride(), strict=True):
        start, offset = divmod(offset, stride)
        box.append((start, start + sizes.pop(stride, 1)))
        if box[-1][1] > size:
            raise ValueError(f"{tuple(view.shape)} at {view.storage_offset()} is not a box of {whole.shape}.")
    if sizes or offset:
        raise ValueError(f"a view with strides {view.stride()} is not a box of {tuple(whole.shape)}.")
    return tuple(box)


def times_covered(boxes: Iterable[Box], shape: tuple[int, ...]) -> set[int]:
    """Return how many of the boxes hold an element of a tensor of this shape: the set of all counts."""
    boxes = list(boxes)
    cuts = [sorted({0, size, *(edge for box in boxes for edge in box[i])}) for i, size in enumerate(shape)]
    places = [{edge: place for place, edge in enumerate(edges)} for edges in cuts]
    counts = np.zeros([len(edges) - 1 for edges in cuts], dtype=int)
    for box in boxes:
        counts[tuple(slice(at[start], at[stop]) for at, (start, stop) in zip(places, box, strict=True))] += 1
    return set(counts.flatten().tolist())


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
