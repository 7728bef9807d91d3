"""An engine with `--device cpu` on a machine that has a GPU."""

import pytest

from serval_testkit.imitated_engine import Answers

pytestmark = pytest.mark.timeout(900)  # the first test waits for `answers`


def test_cpu_engine_does_not_see_the_gpu(answers: Answers) -> None:
    """SGLang's is_cuda() asks torch, not --device. With a visible GPU its model would import flashinfer,
    which a CPU engine leaves out, and the plugin could not take effect."""
    engine = answers["cpu_engine"]
    assert (engine["platform"], engine["is_cpu"], engine["is_cuda"]) == ("CpuSRTPlatform", True, False)
    assert engine["kernels"] != "cuda"
