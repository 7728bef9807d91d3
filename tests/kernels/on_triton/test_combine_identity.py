"""`combine_identity` against float64 arithmetic, in place and not, and against its torch reference."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serval_kernels.combine_identity import combine_identity_reference, combine_identity_triton
from serval_testkit.triton_device import DEVICE, rounding_ulps


def assert_rounded_once(got: torch.Tensor, exact: torch.Tensor) -> None:
    slack = rounding_ulps(got.dtype) * torch.finfo(got.dtype).eps
    # Three float32 terms of up to about 30 may cancel.
    assert ((got.double() - exact).abs() <= exact.abs() * slack * 1.001 + 2e-5).all()


@given(
    tokens=st.integers(0, 5),
    hidden=st.integers(1, 70) | st.sampled_from([1024, 1025]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    routed_scale=st.sampled_from([1.0, 6.0, 0.3]),
    target=st.sampled_from(["new", "apart", "routed", "tokens", "residual"]),
    with_residual=st.booleans(),
    seed=st.integers(0, 99),
)
def test_combine_identity_rounds_once(
    tokens: int,
    hidden: int,
    dtype: torch.dtype,
    routed_scale: float,
    target: str,
    with_residual: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    routed, x, residual = (
        torch.randn(tokens, hidden, generator=generator).to(DEVICE, dtype) for _ in range(3)
    )
    weight = (6 * torch.rand(tokens, generator=generator)).to(DEVICE)
    exact = routed_scale * routed.double() + weight.double()[:, None] * x.double()
    if with_residual:
        exact += residual.double()
    options = {"routed_scale": routed_scale, "residual": residual if with_residual else None}
    reference = combine_identity_reference(routed, x, weight, **options)
    targets = {
        "new": None,
        "apart": torch.full_like(routed, float("nan")),
        "routed": routed,
        "tokens": x,
        "residual": residual,
    }
    out = targets[target]
    got = combine_identity_triton(routed, x, weight, **options, out=out)
    assert out is None or got is out
    assert got.dtype == dtype
    assert_rounded_once(got, exact)
    assert_rounded_once(reference, exact)


@pytest.mark.parametrize("hidden", [3072, 96])
def test_combine_identity_equals_reference(hidden: int) -> None:
    routed, x = (torch.randn(3, hidden, device=DEVICE) for _ in range(2))
    weight = torch.rand(3, device=DEVICE)
    torch.testing.assert_close(
        combine_identity_triton(routed, x, weight), combine_identity_reference(routed, x, weight)
    )
