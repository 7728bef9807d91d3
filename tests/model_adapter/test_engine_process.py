"""Flags that the engine refuses before it loads anything."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from serval_sglang.engine_process import _UNSUPPORTED, require_supported


def arguments(**asked: bool) -> SimpleNamespace:
    return SimpleNamespace(**(dict.fromkeys(_UNSUPPORTED, False) | asked))


def test_require_supported_accepts_usual_flags() -> None:
    require_supported(arguments())


@pytest.mark.parametrize("flag", _UNSUPPORTED)
def test_require_supported_names_unsupported_flag(flag: str) -> None:
    with pytest.raises(
        SystemExit, match=f"serval: --{flag.replace('_', '-')} is not supported: .*Leave it out"
    ):
        require_supported(arguments(**{flag: True}))


def test_require_supported_advises_ep_instead_of_eplb() -> None:
    with pytest.raises(SystemExit, match=r"does not report; share out the experts with --ep alone"):
        require_supported(arguments(enable_eplb=True))


def test_engine_process_imports_nothing_heavy() -> None:
    """SGLang's processes import it again."""
    program = (
        "import serval_sglang.engine_process, sys; sys.exit(bool({'torch', 'sglang'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
