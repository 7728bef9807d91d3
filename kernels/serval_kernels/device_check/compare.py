"""Comparison of a kernel's result with its definition's."""

from torch import Tensor
from torch.testing import assert_close


def require_close(name: str, got: Tensor, expected: Tensor, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Raise `AssertionError` with `name` and the largest difference unless the two are close, or equal."""
    assert_close(got, expected, rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}")
