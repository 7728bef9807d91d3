"""The n-gram tables of one rank: their format, their place in memory, and loading."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from serval_kernels.ngram_gather import NgramTable
from serval_kernels.row_quantization import LARGEST_CODE, QuantizedTable
from serval_sglang.settings import TablePlace

_CODE_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in LARGEST_CODE}


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStorage:
    """Place and format of the tables.

    A `place` of "host" is host memory, pinned for a GPU, whose kernel then reads rows over the bus. A
    `code_dtype` of int8 or float8_e4m3fn comes with one float32 scale per row; None means floats of the
    default dtype.
    """

    place: TablePlace = "device"
    code_dtype: torch.dtype | None = None


def code_dtype(stated: str | None) -> torch.dtype | None:
    """Parse the dtype of the tables' codes in config.json (`TABLE_DTYPE_KEY`); None for floats.

    Raises `ValueError` for another dtype.
    """
    if stated is None:
        return None
    if stated not in _CODE_DTYPES:
        raise ValueError(
            f"config.json says that the n-gram tables hold {stated!r}; this release reads floats, "
            f"{' and '.join(_CODE_DTYPES)}."
        )
    return _CODE_DTYPES[stated]


class NgramTables(nn.Module):
    """All tables stacked, some columns of each: `values` [rows, width], with `scales` [rows] for codes.

    Scales are always on the device: they are a sixty-fourth of the codes of LongCat-Flash-Lite, and a row
    then costs a single read over the bus.
    """

    scales: nn.Parameter | None

    def __init__(self, rows: int, width: int, storage: TableStorage, *, device: torch.device) -> None:
        super().__init__()
        on_host = storage.place == "host"
        values = torch.empty(
            rows,
            width,
            dtype=storage.code_dtype or torch.get_default_dtype(),
            device="cpu" if on_host else device,
            pin_memory=on_host and device.type == "cuda",
        )
        self.values = nn.Parameter(values, requires_grad=False)
        if storage.code_dtype is None:
            self.register_parameter("scales", None)
        else:
            scales = torch.empty(rows, dtype=torch.float32, device=device)
            self.scales = nn.Parameter(scales, requires_grad=False)

    def stored(self) -> NgramTable:
        """Return the tables in the form that `serval_kernels` accepts."""
        return self.values.data if self.scales is None else QuantizedTable(self.values.data, self.scales.data)

    def load_values(self, name: str, start: int, loaded: Tensor) -> None:
        """Copy one table's columns to the rows from `start` on.

        Raises `ValueError` if `loaded` holds floats and the tables codes, or the reverse.
        """
        is_coded = loaded.dtype in LARGEST_CODE
        if is_coded != (self.scales is not None) or (is_coded and loaded.dtype != self.values.dtype):
            raise ValueError(
                f"{name} holds {loaded.dtype}, and config.json promises {self.values.dtype}: do both belong "
                "to the same checkpoint (`serval checkpoint quantize-tables` writes both)?"
            )
        self.values.data[start : start + len(loaded)].copy_(loaded)

    def load_scales(self, name: str, start: int, loaded: Tensor) -> None:
        """Copy the scales of one table to the rows from `start` on.

        Raises `ValueError` if these tables have no scales.
        """
        if self.scales is None:
            raise ValueError(f"{name} scales eight-bit codes, and config.json promises {self.values.dtype}.")
        self.scales.data[start : start + len(loaded)].copy_(loaded)
