"""Flags that the engine refuses, and how it starts on each device; SGLang itself is left out."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from serval_sglang.cpu_compat import forked_processes, uncompiled
from serval_sglang.engine_process import (
    _UNSUPPORTED,
    main,
    require_one_tokenizer,
    require_supported,
    without_secrets,
)
from serval_sglang.readiness import run_checked_scheduler
from serval_sglang.warm_up import warm_up


def arguments(**asked: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **(
            dict.fromkeys(_UNSUPPORTED, False)
            | {"api_key": None, "tokenizer_worker_num": 1, "speculative_algorithm": None}
            | asked
        )
    )


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


def test_require_supported_refuses_other_drafts() -> None:
    with pytest.raises(
        SystemExit, match=r"serval: --speculative-algorithm NGRAM is not supported: .*\. Leave it out\."
    ):
        require_supported(arguments(speculative_algorithm="NGRAM"))


def test_engine_process_imports_nothing_heavy() -> None:
    """SGLang's processes import it again."""
    program = (
        "import serval_sglang.engine_process, sys; sys.exit(bool({'torch', 'sglang'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps of a start that the device decides, and SGLang's launch, in order; nothing is started."""
    steps: list[str] = []

    def launch_server(*_: Any, run_scheduler_process_func: Any, execute_warmup_func: Any) -> None:
        assert (run_scheduler_process_func, execute_warmup_func) == (run_checked_scheduler, warm_up)
        steps.append("launch")

    def module(name: str, **content: Any) -> None:
        stand_in = ModuleType(name)
        stand_in.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, stand_in)

    nothing = SimpleNamespace(register=lambda *_: None, apply_hooks=lambda: None)
    module("sglang.srt.plugins", load_plugins=lambda: steps.append("plugins"))
    module("sglang.srt.plugins.hook_registry", HookRegistry=nothing, HookType=SimpleNamespace(AFTER="after"))
    module(
        "sglang.srt.utils", kill_itself_when_parent_died=lambda: None, kill_process_tree=lambda *_, **__: None
    )

    def prepare_server_args(flags: list[str]) -> SimpleNamespace:
        steps.extend(flag for flag in flags if flag.startswith("--api-key"))
        return arguments()

    monkeypatch.delenv("SERVAL_ENGINE_API_KEY", raising=False)
    module("sglang.srt.server_args", prepare_server_args=prepare_server_args)
    module("sglang.srt.entrypoints.http_server", launch_server=launch_server)
    monkeypatch.setattr("serval_sglang.plugin.registration.require_registered", lambda: None)
    monkeypatch.setattr(uncompiled, "leave_functions_uncompiled", lambda: steps.append("no compiler"))
    monkeypatch.setattr(forked_processes, "fork_processes", lambda: steps.append("fork processes"))
    return steps


def test_main_on_a_gpu_starts_sglang_as_it_is(start: list[str]) -> None:
    main(["--device=cuda"])
    assert start == ["plugins", "launch"]


def test_main_on_a_cpu_forks_processes_and_compiles_nothing(start: list[str]) -> None:
    main(["--device=cpu"])
    assert start == ["no compiler", "plugins", "fork processes", "launch"]


@pytest.mark.parametrize(("key", "given"), [("secret", ["--api-key=secret"]), ("", [])], ids=["set", "empty"])
def test_main_gives_sglang_the_key_of_the_environment(
    start: list[str], monkeypatch: pytest.MonkeyPatch, key: str, given: list[str]
) -> None:
    """Compose sets the variable to an empty text where it has no value: that is no key, not an empty one."""
    monkeypatch.setenv("SERVAL_ENGINE_API_KEY", key)
    main(["--device=cuda"])
    assert start == ["plugins", *given, "launch"]


def test_require_one_tokenizer_refuses_a_key_that_sglang_would_not_check() -> None:
    require_one_tokenizer(arguments(api_key="secret"))
    require_one_tokenizer(arguments(tokenizer_worker_num=2))
    with pytest.raises(SystemExit, match="--tokenizer-worker-num is not supported with SERVAL_"):
        require_one_tokenizer(arguments(api_key="secret", tokenizer_worker_num=2))


def test_without_secrets_keeps_all_other_arguments() -> None:
    given = {"api_key": "secret", "admin_api_key": None, "ssl_keyfile_password": "secret", "port": 1}
    shown = {"api_key": "***", "admin_api_key": None, "ssl_keyfile_password": "***", "port": 1}
    assert without_secrets(given, object()) == shown
