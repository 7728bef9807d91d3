"""Storage formats of the tables."""

import pytest
import torch

from serval_kernels.row_quantization import QuantizedTable
from serval_sglang.layers.ngram_tables import NgramTables, TableStorage, code_dtype


def test_code_dtype_parses_config_json() -> None:
    assert code_dtype(None) is None
    assert code_dtype("int8") == torch.int8
    assert code_dtype("float8_e4m3fn") == torch.float8_e4m3fn
    with pytest.raises(ValueError, match="'int4'; this release reads floats, int8 and float8_e4m3fn"):
        code_dtype("int4")


def test_ngram_tables_have_default_dtype_or_codes_with_scales() -> None:
    floats = NgramTables(5, 4, TableStorage(), device=torch.device("cpu"))
    assert isinstance(floats.stored(), torch.Tensor)
    assert floats.values.dtype == torch.get_default_dtype()
    coded = NgramTables(5, 4, TableStorage(code_dtype=torch.int8), device=torch.device("cpu")).stored()
    assert isinstance(coded, QuantizedTable)
    assert (coded.codes.dtype, coded.scales.shape) == (torch.int8, (5,))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("codes", [None, torch.int8])
def test_ngram_tables_on_host_are_pinned_and_scales_on_gpu(codes: torch.dtype | None) -> None:
    storage = TableStorage(place="host", code_dtype=codes)
    with torch.device("cuda"):
        tables = NgramTables(5, 4, storage, device=torch.device("cuda"))
    assert (tables.values.device.type, tables.values.is_pinned()) == ("cpu", True)
    assert tables.scales is None or tables.scales.is_cuda
