"""FP8 experts on an A100, which no flag makes possible: a reason in resolved.toml."""

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompilationError

from serval_kernels.launch import INTERPRETED

pytestmark = pytest.mark.skipif(
    INTERPRETED, reason="interpreted kernels are not compiled: unset TRITON_INTERPRET"
)


@triton.jit
def product(a, b, out):  # type: ignore[no-untyped-def]
    """Multiply two FP8 matrices of 64 x 64, as sglang's fused_moe_kernel does with codes and activations."""
    at = tl.arange(0, 64)[:, None] * 64 + tl.arange(0, 64)[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at)))


def compile_product(capability: int) -> None:
    signature = {"a": "*fp8e4nv", "b": "*fp8e4nv", "out": "*fp32"}
    triton.compile(ASTSource(product, signature), target=GPUTarget("cuda", capability, 32))


def test_fp8_experts_do_not_compile_for_ampere() -> None:
    with pytest.raises(CompilationError, match="fp8e4nv not supported in this architecture"):
        compile_product(80)
    compile_product(90)
