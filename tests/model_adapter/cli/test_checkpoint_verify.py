"""`serval checkpoint verify`: a real engine on a tiny checkpoint, signals, and immediate refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from serval_sglang.cli.checkpoint.__main__ import main
from serval_sglang.cli.checkpoint.verify import as_json, as_text
from serval_sglang.config import LongcatConfig
from serval_sglang.known_configs import LITE, TINY
from serval_sglang.launch import parse_options, sglang_arguments
from serval_sglang.verify.cases import Case
from serval_sglang.verify.comparison import Difference, Disagreement
from serval_sglang.verify.drafts import DraftComparison
from serval_sglang.verify.engine import EngineFailed, launcher_arguments
from serval_sglang.verify.verification import BOUNDS, CaseResult, Verification
from serval_testkit.processes import Program, descendants, is_running

SMALL = ("--num-layers", "1", "--n-routed-experts", "4", "--moe-topk", "3")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny"
    assert main(["tiny", str(directory), "--dtype", "float32", *SMALL]) == 0
    return directory


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "serval", "checkpoint", "verify", *map(str, arguments)]


@pytest.mark.engine
def test_verify_accepts_tiny_checkpoint_in_mixed_chunks_of_two(tmp_path: Path) -> None:
    """Runs in a working directory whose files would shadow imported modules."""
    checkpoint = tmp_path / "tiny"
    assert main(["tiny", str(checkpoint), "--dtype", "float32"]) == 0
    for name in ("torch", "sglang", "serval_sglang", "numpy", "uvicorn"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stray file was imported')\n")
    flags = ("--", "--chunked-prefill-size", "2", "--enable-mixed-chunk")
    done = subprocess.run(
        command(checkpoint, "--device", "cpu", "--json", *flags),
        cwd=tmp_path, capture_output=True, text=True, timeout=800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "case 7 of 7" in done.stderr
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=1))
    assert found["agrees"] is True
    assert (found["dtype"], found["tp"], found["ep"]) == ("float32", 1, 1)
    assert found["bound"] == {"statistic": "maximum", "value": 2e-3}
    assert found["total"]["maximum"] <= 2e-3
    assert found["total"]["first_disagreement"] is None
    assert len(found["cases"]) == 7


@pytest.fixture
def program(checkpoint: Path) -> Iterator[Program]:
    """Start the command; kill any leftover processes at the end."""
    started = Program(command(checkpoint, "--device", "cpu"), cwd=checkpoint, environment=os.environ)
    yield started
    for pid in {started.process.pid, *descendants(started.process.pid)}:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
    started.process.wait()


@pytest.mark.engine
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_verify_leaves_nothing_running_after_signal_during_start(
    program: Program, number: signal.Signals
) -> None:
    program.wait_for_line(lambda line: "starting the engine" in line, timeout_s=300)
    # The launcher and its child, SGLang's main process.
    wait_until(lambda: len(descendants(program.process.pid)) >= 2)
    started = descendants(program.process.pid)
    program.signal(number)
    # The code that shells report for a process ended by Ctrl-C.
    assert program.wait(timeout_s=300) == 130
    wait_until(lambda: not any(is_running(pid) for pid in started))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "it did not come about within 300 s"
        time.sleep(0.05)


def run(*arguments: object) -> int:
    return main(["verify", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--", "--chunked-prefill-size", "many"], "--chunked-prefill-size must be a number of tokens"),
        (["--", "--chunked-prefill-size"], "--chunked-prefill-size must be a number of tokens, got ''"),
        (["--tp", "2", "--ep", "3"], "--ep must divide --tp, got --tp 2 --ep 3"),
        (["--tp", "0"], "must be at least 1"),
        (["--mean-bound", "0.06"], "--mean-bound is for bfloat16"),
        (["--dtype", "int3"], "invalid choice"),
        (["--device", "cuda"], "--device cuda needs --dtype bfloat16: SGLang computes no float32 on GPUs"),
    ],
)
def test_verify_reports_wrong_use(
    checkpoint: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(checkpoint, *arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "device", "said"),
    [
        ([], "cpu", "starting the engine on the CPU, because SGLang computes no float32 on GPUs"),
        (["--dtype", "bfloat16"], None, "starting the engine\n"),
        (["--dtype", "bfloat16", "--device", "cuda"], "cuda", "starting the engine\n"),
    ],
    ids=["float32", "bfloat16", "bfloat16 on a GPU"],
)
def test_verify_computes_float32_on_the_cpu(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    device: str | None,
    said: str,
) -> None:
    devices: list[str | None] = []

    def engine(*_: Any, device: str | None, **__: Any) -> NoReturn:
        devices.append(device)
        raise EngineFailed("not started in this test")

    monkeypatch.setattr("serval_sglang.verify.engine.running_engine", engine)
    assert run(checkpoint, *arguments) == 1
    assert devices == [device]
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("config", "is_small"), [(TINY, True), (LITE, False)], ids=["tiny", "lite"])
def test_verify_on_a_gpu_selects_triton_for_small_attention(
    tmp_path: Path, config: LongcatConfig, *, is_small: bool
) -> None:
    """FlashAttention 3, which SGLang selects on Hopper, takes no small sizes."""
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    given = launcher_arguments(
        tmp_path, port=1, dtype="bfloat16", tp=2, ep=2, device="cuda", extra_flags=["--page-size=1"]
    )
    found = sglang_arguments(parse_options(given))
    assert ("--attention-backend=triton" in found) is is_small
    assert found[-2:] == ["--dtype=bfloat16", "--page-size=1"]


def test_verify_refuses_checkpoint_that_reference_cannot_read(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint / "config.json"
    config: dict[str, Any] = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq", "bits": 4}}))
    assert run(checkpoint) == 1
    assert "quantised by 'awq', which the reference cannot read" in capsys.readouterr().err


def test_verify_refuses_damaged_checkpoint_before_starting_engine(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"nothing")
    assert run(checkpoint) == 1
    said = capsys.readouterr().err
    assert "model.safetensors cannot be read" in said
    assert "starting the engine" not in said


def test_only_verify_accepts_engine_flags(checkpoint: Path) -> None:
    assert main(["inspect", "--", str(checkpoint)]) == 0


def verification(maximum: float) -> Verification:
    got = Difference(maximum, maximum / 10, 200, 1e-9, 10, 3, Disagreement(4, 65) if maximum > 1 else None)
    bound = BOUNDS["float32"]
    return Verification(bound, [CaseResult("cached prefixes", 12, got, bound.allows(got))], got)


def drafts(other_drafts: int) -> DraftComparison:
    return DraftComparison(
        requests=6,
        other_texts=1,
        other_drafts=other_drafts,
        passes=98,
        right=132,
        reference_passes=98,
        reference_right=132,
    )


@pytest.mark.parametrize(("other_drafts", "agrees"), [(0, True), (1, False)])
def test_verify_requires_equal_drafts_in_float32(other_drafts: int, *, agrees: bool) -> None:
    found = as_json(verification(1e-5), drafts(other_drafts), dtype="float32", tp=1, ep=1)
    assert found["agrees"] is agrees
    assert found["drafts"]["right"] == 132
    assert as_json(verification(1e-5), drafts(other_drafts), dtype="bfloat16", tp=1, ep=1)["agrees"] is True
    *_, line, verdict = as_text(verification(1e-5), drafts(other_drafts), dtype="float32")
    assert line.startswith(
        "drafts: 132 right in 98 verify passes, and 132 in 98 of the reference; of 6 requests"
    )
    assert verdict.startswith(f"float32 {'agrees' if agrees else 'DISAGREES'}: ")


def test_verify_with_drafts_needs_the_layer(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(checkpoint, "--mtp-steps", "3") == 1
    said = capsys.readouterr().err
    assert "has no multi-token-prediction layer" in said
    assert "starting the engine" not in said


def test_verify_table_shows_size_and_place_of_difference() -> None:
    head, case, total, _, verdict = "\n".join(as_text(verification(1.5), dtype="float32")).splitlines()
    assert head.split()[:3] == ["case", "requests", "positions"]
    assert case.startswith("cached prefixes")
    assert case.endswith("request 4, position 65  <- too far")
    assert total.split()[:4] == ["all", "12", "10", "3"]
    assert verdict == "float32 DISAGREES: maximum |difference of log-probability| 1.5, bound 0.002"
    assert "float32 agrees" in "\n".join(as_text(verification(1e-5), dtype="float32"))


def test_verify_json_has_every_number() -> None:
    found = as_json(verification(1.5), dtype="float32", tp=2, ep=1)
    assert json.loads(json.dumps(found))["cases"][0]["difference"] == {
        "maximum": 1.5, "mean": 0.15, "count": 200, "kl": 1e-9, "positions": 10, "ties": 3,
        "first_disagreement": {"request": 4, "position": 65},
    }  # fmt: skip
    assert found["agrees"] is False


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        ([], []),
        (["--enable-hierarchical-cache"], []),
        (["--enable-hicache", "--page-size=1"], ["--page-size=1"]),
    ],
    ids=str,
)
def test_verify_skips_host_cache_on_a_cpu_and_says_why(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    given: list[str],
) -> None:
    started = not_started(monkeypatch)
    answered(monkeypatch)
    assert run(checkpoint, "--json", "--", *flags) == 0
    (found,) = started
    assert found == ["--chunked-prefill-size=64", *given]
    reason = "SGLang starts no HiCache on a CPU" if flags else "needs a GPU, and"
    assert reason in json.loads(capsys.readouterr().out)["not_run"]["prefix restored from the host"]
    assert run(checkpoint, "--", *flags) == 0
    assert f"not run: prefix restored from the host: {reason}" in capsys.readouterr().out


def test_verify_compares_host_cache_on_a_gpu(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started = not_started(monkeypatch)
    names = answered(monkeypatch)
    flags = ("--dtype", "bfloat16", "--device", "cuda", "--", "--enable-hierarchical-cache")
    assert run(checkpoint, "--json", *flags) == 0
    (given,) = started
    assert given == ["--chunked-prefill-size=64", "--max-total-tokens=4096", "--enable-hierarchical-cache"]
    assert "prefix restored from the host" in names
    assert json.loads(capsys.readouterr().out)["not_run"] == {}
    arguments = launcher_arguments(
        checkpoint, port=1, dtype="bfloat16", tp=1, ep=1, device="cuda", extra_flags=given
    )
    assert parse_options(arguments).allow_untested == "hicache"


def not_started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Have no engine started; return the list of the flags of each start."""
    flags: list[list[str]] = []

    @contextmanager
    def engine(*_: Any, extra_flags: list[str], **__: Any) -> Iterator[None]:
        flags.append(extra_flags)
        yield None

    monkeypatch.setattr("serval_sglang.verify.engine.running_engine", engine)
    return flags


def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have every case agree; return the list of their names."""
    names: list[str] = []

    def verify(_: object, __: object, cases: list[Case], **___: Any) -> Verification:
        names.extend(case.name for case in cases)
        return verification(1e-5)

    monkeypatch.setattr("serval_sglang.verify.verification.verify_engine", verify)
    return names
