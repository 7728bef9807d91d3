"""Flags that the engine refuses before it loads anything."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from serval_sglang.engine_process import _UNSUPPORTED, require_supported


def arguments(**asked: bool) -> SimpleNamespace:
    return SimpleNamespace(**(dict.fromkeys(_UNSUPPORTED, False) | asked))


def test_usual_flags_pass() -> None:
    require_supported(arguments())


@pytest.mark.parametrize("flag", _UNSUPPORTED)
def test_an_unsupported_flag_is_refused_by_name(flag: str) -> None:
    with pytest.raises(
        SystemExit, match=f"serval: --{flag.replace('_', '-')} is not supported: .*Leave it out"
    ):
        require_supported(arguments(**{flag: True}))


def test_load_balancing_of_experts_says_what_to_use_instead() -> None:
    with pytest.raises(SystemExit, match=r"does not report; share out the experts with --ep alone"):
        require_supported(arguments(enable_eplb=True))


def test_the_module_imports_nothing_heavy() -> None:
    """SGLang's processes import it again."""
    program = (
        "import serval_sglang.engine_process, sys; sys.exit(bool({'torch', 'sglang'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
