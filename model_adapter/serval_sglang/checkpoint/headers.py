"""Headers of safetensors files, read without the tensors' values and without torch."""

import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from serval_sglang.checkpoint.files import CheckpointError
from serval_sglang.checkpoint.layout import Shape

_DTYPE_BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """Name, dtype (as safetensors spells it, such as BF16) and shape of a stored tensor."""

    name: str
    dtype: str
    shape: Shape

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.elements * _DTYPE_BITS[self.dtype] // 8


def read_headers(file: Path) -> list[TensorHeader]:
    """Read the headers of all tensors of `file`, ordered by name.

    Raises `CheckpointError` if it is not a complete safetensors file, or holds an unknown dtype.
    """
    try:
        # "np" is the only framework that does not need torch; numpy is not needed if no value is read.
        with safe_open(file, framework="np") as tensors:
            slices = {name: tensors.get_slice(name) for name in sorted(tensors.keys())}
            headers = [
                TensorHeader(name, str(found.get_dtype()), tuple(found.get_shape()))
                for name, found in slices.items()
            ]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read as safetensors: {error}") from error
    strange = sorted({header.dtype for header in headers} - _DTYPE_BITS.keys())
    if strange:
        raise CheckpointError(f"{file} holds tensors of dtype {', '.join(strange)}, which is not known here.")
    return headers
