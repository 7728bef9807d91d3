import pytest
import torch

from serval_kernels.combine_identity import combine_identity


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 1, 63])
def test_combine_identity_reference_rounds_once(dtype: torch.dtype, tokens: int) -> None:
    generator = torch.Generator().manual_seed(5)
    routed, x = (torch.randn(tokens, 60, generator=generator).to(dtype) for _ in range(2))
    weight = torch.rand(tokens, generator=generator) * 6
    got = combine_identity(routed, x, weight)
    assert got.dtype == dtype
    exact = routed.double() + weight.double()[:, None] * x.double()
    # Half a unit in the last place of the result, plus the error of float32 before that.
    half_ulp = torch.finfo(dtype).eps / 2
    assert ((got.double() - exact).abs() <= exact.abs() * half_ulp + 3e-6).all()
