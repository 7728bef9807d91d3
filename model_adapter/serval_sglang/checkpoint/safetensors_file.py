"""safetensors files as bytes: the position of each tensor, and writing in pieces to save memory.

Format: eight bytes with the length of a JSON header, the header, the data. Source: the README of
github.com/huggingface/safetensors, section "Format".
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from serval_sglang.checkpoint.files import CheckpointError

_LENGTH_BYTES = 8
_LARGEST_HEADER = 100_000_000  # the limit of the safetensors library
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file. `dtype` is the format's own name for it ("BF16")."""

    dtype: str
    shape: tuple[int, ...]
    start: int  # offset of the first byte in the file
    nbytes: int

    @property
    def item_bytes(self) -> int:
        return self.nbytes // max(math.prod(self.shape), 1)


def read_header(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Read the tensors of a file, in the order of their data, and its metadata.

    Raises `CheckpointError` if the file is not safetensors or is shorter than its header states, and
    `OSError` if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            if length > _LARGEST_HEADER:
                raise CheckpointError(f"{path} is not safetensors: its header would have {length} bytes.")
            header = json.loads(file.read(length))
        metadata = header.pop(_METADATA, {})
        data = _LENGTH_BYTES + length
        tensors = {
            name: StoredTensor(
                entry["dtype"],
                tuple(entry["shape"]),
                data + entry["data_offsets"][0],
                entry["data_offsets"][1] - entry["data_offsets"][0],
            )
            for name, entry in header.items()
        }
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is not safetensors: {error!r}.") from error
    end = max((tensor.start + tensor.nbytes for tensor in tensors.values()), default=data)
    if path.stat().st_size < end:
        raise CheckpointError(f"{path} is cut off: {path.stat().st_size} bytes instead of {end}.")
    return dict(sorted(tensors.items(), key=lambda item: item[1].start)), metadata


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to be written to a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    item_bytes: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.item_bytes


class FileWriter:
    """Writes a file whose tensors are known in advance and whose data arrives in pieces, in any order.

    The file gets its final name once everything is written; until then, and after an error, its name ends in
    ".partial".
    """

    def __init__(self, path: Path, planned: Sequence[PlannedTensor], *, metadata: Mapping[str, str]) -> None:
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        # Widest items first, because a reader maps the file and needs each tensor aligned to its items.
        ordered = sorted(planned, key=lambda tensor: -tensor.item_bytes)
        header: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
        offset = 0
        for tensor in ordered:
            header[tensor.name] = {
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "data_offsets": [offset, offset + tensor.nbytes],
            }
            offset += tensor.nbytes
        encoded = json.dumps(header, separators=(",", ":")).encode()
        encoded += b" " * (-len(encoded) % _LENGTH_BYTES)
        self._head = len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded
        self._end = len(self._head) + offset
        self._starts: dict[str, int] = {}
        offset = len(self._head)
        for tensor in ordered:
            self._starts[tensor.name] = offset
            offset += tensor.nbytes
        self._file: BinaryIO

    def __enter__(self) -> Self:
        self._file = self._partial.open("wb")
        self._file.write(self._head)
        self._file.truncate(self._end)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            self._partial.rename(self._path)

    def write(self, name: str, piece: bytes | memoryview, *, offset: int) -> None:
        """Write `piece` to tensor `name`, `offset` bytes from its beginning."""
        self._file.seek(self._starts[name] + offset)
        self._file.write(piece)
