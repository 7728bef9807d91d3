"""The launcher's command line, environment and exit codes, without an engine."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serval_sglang.cpu_compat.environment import STANDIN_PACKAGES, cpu_environment
from serval_sglang.launch import engine_environment, main, parse_options, sglang_arguments
from serval_sglang.machine_part import MachinePart
from serval_sglang.options import DEMO_MODEL, EngineOptions, candidate_steps, flag_value
from serval_sglang.settings import ModelSettings, model_settings
from serval_sglang.supervision import supervise
from serval_testkit.processes import free_port

DUMMY_WEIGHTS = ("--", "--load-format=dummy")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_sglang_arguments_put_operators_flags_last(model: Path) -> None:
    options = parse_options([f"--model={model}", "--device=cpu", "--", "--max-total-tokens", "99"])
    arguments = sglang_arguments(options)
    assert arguments[-2:] == ["--max-total-tokens", "99"]
    assert arguments.index("--max-total-tokens") > arguments.index("--max-total-tokens=65536")


def test_sglang_arguments_default_to_loopback_streaming_and_metrics(model: Path) -> None:
    arguments = sglang_arguments(parse_options([f"--model={model}", "--device=cuda"]))
    assert {"--host=127.0.0.1", "--incremental-streaming-output", "--enable-metrics"} <= set(arguments)
    assert "--attention-backend=torch_native" not in arguments


def test_sglang_arguments_ask_for_one_chain_of_drafts_by_the_model_itself(model: Path) -> None:
    arguments = sglang_arguments(parse_options([f"--model={model}", "--device=cuda", "--mtp-steps=2"]))
    assert {
        "--speculative-algorithm=NEXTN",
        f"--speculative-draft-model-path={model}",
        "--speculative-num-steps=2",
        "--speculative-eagle-topk=1",
        "--speculative-num-draft-tokens=3",
        "--max-running-requests=48",
    } <= set(arguments)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_sglang_arguments_let_the_controller_choose_steps(model: Path, steps: int) -> None:
    given = [f"--model={model}", "--device=cuda", f"--mtp-steps={steps}"]
    configuration = flag_value(sglang_arguments(parse_options(given)), "--speculative-adaptive-config")
    assert configuration is not None
    # SGLang refuses to start if the steps are not among them.
    of_sglang = json.loads(Path(configuration).read_text())["1"]["candidate_steps"]
    assert candidate_steps(steps) == sorted(of_sglang)
    fixed = sglang_arguments(parse_options([*given, "--mtp-fixed"]))
    assert not [flag for flag in fixed if "adaptive" in flag]


@pytest.mark.parametrize(
    ("flag", "grammar_drafts"), [("--grammar-drafts", True), ("--no-grammar-drafts", False)]
)
def test_engine_environment_says_if_grammars_draft(model: Path, flag: str, grammar_drafts: bool) -> None:
    options = parse_options([f"--model={model}", "--device=cpu", "--mtp-steps=1", flag])
    assert model_settings(engine_environment(options, {}, [0])).grammar_drafts is grammar_drafts


@pytest.mark.parametrize(
    ("flags", "inherited", "found"),
    [
        (["--mtp-steps=2"], {}, "1"),
        (["--mtp-steps=2", "--mtp-fixed"], {}, None),
        ([], {}, None),
        (["--mtp-steps=2"], {"SGLANG_SPEC_SKIP_ZERO_STEP_DRAFT_EXTEND": "0"}, "0"),
    ],
)
def test_engine_environment_lets_the_controller_skip_the_layer(
    model: Path, flags: list[str], inherited: dict[str, str], found: str | None
) -> None:
    options = parse_options([f"--model={model}", "--device=cpu", *flags])
    environment = engine_environment(options, inherited, [0])
    assert environment.get("SGLANG_SPEC_SKIP_ZERO_STEP_DRAFT_EXTEND") == found


def test_sglang_arguments_name_the_weights_by_the_manifest_beside_them(model: Path) -> None:
    options = parse_options([f"--model={model}", "--device=cuda"])
    assert not [flag for flag in sglang_arguments(options) if flag.startswith("--weight-version")]
    (model / "SHA256SUMS").write_bytes(b"abc")
    # The example of FIPS 180-2 for "abc".
    name = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert flag_value(sglang_arguments(options), "--weight-version") == name


def test_sglang_arguments_without_drafts_name_none(model: Path) -> None:
    arguments = sglang_arguments(parse_options([f"--model={model}", "--device=cuda"]))
    assert not [flag for flag in arguments if "speculative" in flag or "max-running" in flag]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--tp=2", "--ep=3"], "--ep must divide --tp"),
        (["--tp=0"], "--tp: must be at least 1, not 0"),
        (["--device=tpu"], "invalid choice"),
        (["--ngram-tables=disk"], "invalid choice"),
        (["--mtp-steps=4"], "argument --mtp-steps: invalid choice: 4"),
        (["--mtp-steps=-1"], "argument --mtp-steps: invalid choice: -1"),
        (["--moe-overlap-tokens=-1"], "--moe-overlap-tokens: must be at least 0, not -1"),
        (["--unheard-of"], "unrecognized arguments"),
    ],
)
def test_parse_options_exits_with_2_on_wrong_use(
    model: Path, extra: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_options([f"--model={model}", "--device=cpu", *extra])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_parse_options_folder_without_config_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        parse_options(["--model=/nonexistent", "--device=cpu"])
    assert exit_.value.code == 1
    message = (
        "serval engine: error: --model '/nonexistent' is not a checkpoint folder: it holds no config.json"
    )
    assert capsys.readouterr().err == f"{message}\n"


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (1, "cuda")])
def test_parse_options_defaults_to_a_gpu_if_there_is_one(
    model: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, device: str
) -> None:
    monkeypatch.setattr("serval_sglang.launch.visible_gpus", lambda: gpus)
    assert parse_options([f"--model={model}"]).device == device


def test_parse_options_reads_what_is_allowed_untested(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"--model={model}", "--device=cuda"]
    assert parse_options(arguments).allow_untested is None
    assert parse_options([*arguments, "--allow-untested=hicache"]).allow_untested == "hicache"
    monkeypatch.setenv("SERVAL_ALLOW_UNTESTED", "hicache")
    assert parse_options(arguments).allow_untested == "hicache"
    monkeypatch.setenv("SERVAL_ALLOW_UNTESTED", "everything")
    with pytest.raises(SystemExit):
        parse_options(arguments)
    assert "SERVAL_ALLOW_UNTESTED must be one of hicache, got 'everything'" in capsys.readouterr().err


def test_main_with_check_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serval_sglang.launch.supervise", lambda *_: pytest.fail("an engine was started"))
    assert main(["--check", f"--model={DEMO_MODEL}", "--device=cpu", f"--port={free_port()}"]) == 0


def test_launcher_imports_neither_torch_nor_sglang() -> None:
    program = "import serval_sglang.launch, sys; sys.exit(bool({'torch', 'sglang'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture
def toolkit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a machine with compilers for CUDA."""
    folder = tmp_path_factory.mktemp("toolkit")
    for name in ("nvcc", "c++", "ninja"):
        (folder / "bin" / name).parent.mkdir(exist_ok=True)
        (folder / "bin" / name).touch(mode=0o755)
    (folder / "include").mkdir()
    for name in ("cuda_runtime.h", "curand.h"):
        (folder / "include" / name).touch()
    return {"CUDA_HOME": str(folder), "PATH": str(folder / "bin")}


def test_engine_environment_adds_only_the_compilers_on_gpu(model: Path, toolkit: dict[str, str]) -> None:
    options = EngineOptions(model=model, device="cuda", tp=8)
    inherited = {"A": "b", "SGLANG_EXTERNAL_MODEL_PACKAGE": "mine", **toolkit}
    path = f"{toolkit['PATH']}:{toolkit['PATH']}"
    assert engine_environment(options, inherited, range(4)) == {**inherited, "PATH": path}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_engine_environment_pins_host_tables_in_their_own_size(
    model: Path, toolkit: dict[str, str], device: str
) -> None:
    options = parse_options([f"--model={model}", f"--device={device}", "--ngram-tables=host"])
    found = engine_environment(options, toolkit, range(4))
    expected = {"PYTORCH_ALLOC_CONF": "pinned_max_round_threshold_mb:1024", "SGLANG_NUMA_BIND_V2": "0"}
    assert (expected.items() <= found.items()) is (device == "cuda")


def test_main_refuses_invalid_variable(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVAL_NGRAM_TABLES", "disk")
    with pytest.raises(
        SystemExit, match="serval engine: error: SERVAL_NGRAM_TABLES must be one of device, host"
    ):
        main([f"--model={model}", "--device=cuda", f"--port={free_port()}", *DUMMY_WEIGHTS])


def test_engine_environment_needs_no_compilers_on_cpu(model: Path) -> None:
    options = EngineOptions(model=model, device="cpu")
    assert "CUDA_HOME" not in engine_environment(options, {"PATH": "/nowhere"}, range(4))


def test_main_refuses_a_gpu_without_compilers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("serval_sglang.launch.supervise", lambda *_: pytest.fail("an engine was started"))
    with pytest.raises(SystemExit, match=r"not found: c\+\+; .* Debian's package g\+\+\. .*--device cpu"):
        main([f"--model={model}", "--device=cuda", f"--port={free_port()}", *DUMMY_WEIGHTS])


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_main_adds_the_kernels_of_the_image_for_a_gpu(
    model: Path, toolkit: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    (tmp_path / "image" / "jit").mkdir(parents=True)
    (tmp_path / "image" / "jit" / "a.so").touch()
    more = {"HOME": str(tmp_path), "SERVAL_PREBUILT_KERNELS": str(tmp_path / "image")}
    for name, value in (toolkit | more).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("serval_sglang.launch.supervise", lambda *_: 0)
    assert main([f"--model={model}", f"--device={device}", f"--port={free_port()}", *DUMMY_WEIGHTS]) == 0
    assert (tmp_path / ".cache" / "sglang" / "jit" / "a.so").exists() is (device == "cuda")


def test_main_starts_without_the_kernels_of_the_image(
    model: Path,
    toolkit: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "home").touch()
    more = {"HOME": str(tmp_path / "home"), "SERVAL_PREBUILT_KERNELS": str(tmp_path / "image")}
    for name, value in (toolkit | more).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("serval_sglang.launch.supervise", lambda *_: 0)
    assert main([f"--model={model}", "--device=cuda", f"--port={free_port()}", *DUMMY_WEIGHTS]) == 0
    assert "kernels will be compiled again" in capsys.readouterr().err


def test_engine_environment_carries_model_settings(model: Path, toolkit: dict[str, str]) -> None:
    options = parse_options(
        [f"--model={model}", "--device=cuda", "--ngram-tables=host", "--moe-overlap-tokens=64"]
    )
    found = model_settings(
        engine_environment(options, {"SERVAL_NGRAM_TABLES": "device", **toolkit}, range(4))
    )
    assert found == ModelSettings(ngram_tables="host", moe_overlap_tokens=64)
    # Without the flags the operator's own variables are kept.
    plain = parse_options([f"--model={model}", "--device=cuda"])
    assert model_settings(
        engine_environment(plain, {"SERVAL_NGRAM_TABLES": "host", **toolkit}, range(4))
    ) == ModelSettings(ngram_tables="host")


def test_cpu_environment_puts_standin_packages_first() -> None:
    environment = cpu_environment({"PYTHONPATH": "mine"}, ranks=1, cpus=range(4))
    assert environment["PYTHONPATH"] == f"{STANDIN_PACKAGES}:mine"
    program = "import sgl_kernel\ntry: import flashinfer\nexcept ImportError as error: print(error)"
    command = [sys.executable, "-P", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "a CPU engine runs without flashinfer\n"


def test_main_refuses_port_in_use(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(SystemExit, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            main([f"--model={model}", "--device=cpu", f"--port={port}", *DUMMY_WEIGHTS])


@pytest.mark.parametrize(
    ("cpus", "ranks", "shares"),
    [([0, 1], 2, "0|1"), ([0, 1, 2, 3], 2, "0,1|2,3"), ([5], 2, "5|5"), ([0, 1, 2], 2, "0|1")],
)
def test_cpu_environment_divides_cpus_among_ranks(cpus: list[int], ranks: int, shares: str) -> None:
    assert cpu_environment({}, ranks=ranks, cpus=cpus)["SGLANG_CPU_OMP_THREADS_BIND"] == shares


@pytest.mark.parametrize(
    ("flags", "shares"),
    [
        (["--dp-size", "2"], "0|1"),
        (["--data-parallel-size=2"], "0|1"),
        (["--dp-size=4"], "0|1|0|1"),
        (["--dp-size=2", "--enable-dp-attention"], None),
        (["--dp-size=1"], None),
    ],
    ids=str,
)
def test_engine_environment_divides_cpus_among_replicas(
    model: Path, flags: list[str], shares: str | None
) -> None:
    options = parse_options([f"--model={model}", "--device=cpu", "--", *flags])
    environment = engine_environment(options, {}, [0, 1])
    assert environment.get("SGLANG_CPU_OMP_THREADS_BIND") == shares
    assert environment["OMP_NUM_THREADS"] == ("2" if shares is None else "1")


def test_engine_environment_divides_cpus_among_all_ranks_of_replicas(model: Path) -> None:
    options = parse_options([f"--model={model}", "--device=cpu", "--tp=2", "--", "--dp-size=2"])
    environment = engine_environment(options, {}, [0, 1, 2, 3])
    assert environment["SGLANG_CPU_OMP_THREADS_BIND"] == "0|1|2|3"
    given = {"SGLANG_CPU_OMP_THREADS_BIND": "3|2|1|0"}
    assert engine_environment(options, given, [0, 1, 2, 3])["SGLANG_CPU_OMP_THREADS_BIND"] == "3|2|1|0"


def test_main_refuses_a_number_of_replicas_that_is_none(model: Path) -> None:
    with pytest.raises(SystemExit, match="--dp-size must be a number of replicas, got 'two'"):
        main([f"--model={model}", "--device=cpu", f"--port={free_port()}", "--", "--dp-size", "two"])


def test_cpu_environment_keeps_numpy_from_starting_threads() -> None:
    """With them, processes could not be forked."""
    environment = {**os.environ, **cpu_environment({}, ranks=1, cpus=range(2))}
    program = "import numpy, os, sys; sys.exit(len(os.listdir('/proc/self/task')))"
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 1


def test_cpu_environment_lets_waiting_threads_sleep() -> None:
    assert cpu_environment({}, ranks=1, cpus=range(2))["OMP_WAIT_POLICY"] == "passive"


def test_cpu_environment_keeps_spawned_processes_from_compiling() -> None:
    assert cpu_environment({}, ranks=1, cpus=range(2))["TORCHDYNAMO_DISABLE"] == "1"


def test_cpu_environment_hides_gpus() -> None:
    """SGLang's is_cuda() asks torch, not --device, and would load CUDA kernels beside the CPU's."""
    environment = cpu_environment({"CUDA_VISIBLE_DEVICES": "0,1"}, ranks=1, cpus=range(2))
    assert environment["CUDA_VISIBLE_DEVICES"] == ""


def test_cpu_environment_keeps_users_settings() -> None:
    own = {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "active", "SGLANG_CPU_OMP_THREADS_BIND": "3|4"}
    own |= {"TORCHDYNAMO_DISABLE": "0"}
    assert not own.keys() & cpu_environment(own, ranks=2, cpus=range(4)).keys()


@pytest.mark.parametrize(
    ("program", "expected", "said"),
    [
        ("pass", 0, ""),
        ("raise SystemExit(3)", 1, "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", 1, "one of its processes failed"),
        ("import os; os.kill(os.getpid(), 15)", 1, "SIGTERM"),
    ],
)
def test_supervise_reports_how_the_engine_ended(
    program: str, expected: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert supervise([sys.executable, "-c", program], os.environ) == expected
    assert said in capfd.readouterr().err


# Waits for SIGTERM by sigwait: a handler would miss a signal that arrives just before a sleep until it ends.
_WITH_CHILD = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print(child.pid, flush=True)
signal.sigwait([signal.SIGTERM])
"""


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_supervise_ends_engine_and_its_children_on_signal(stop_signal: signal.Signals) -> None:
    supervisor = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys; from serval_sglang.supervision import supervise;"
            f"sys.exit(supervise([sys.executable, '-c', {_WITH_CHILD!r}], os.environ))",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert supervisor.stdout is not None
    child = int(supervisor.stdout.readline())
    supervisor.send_signal(stop_signal)
    assert supervisor.wait(60) == 0
    deadline = time.monotonic() + 60
    while _is_running(child):
        assert time.monotonic() < deadline, "a process of the engine is still running"
        time.sleep(0.05)


def _is_running(pid: int) -> bool:
    """Return True if the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_engine_environment_keeps_to_its_part_of_the_machine(model: Path, toolkit: dict[str, str]) -> None:
    gpu = EngineOptions(model=model, device="cuda", tp=2, machine_part=MachinePart(1, 2))
    assert engine_environment(gpu, toolkit, range(4))["CUDA_VISIBLE_DEVICES"] == "2,3"
    inherited = {**toolkit, "CUDA_VISIBLE_DEVICES": "9,8,7,6"}
    assert engine_environment(gpu, inherited, range(4))["CUDA_VISIBLE_DEVICES"] == "7,6"
    cpu = EngineOptions(model=model, device="cpu", machine_part=MachinePart(1, 2))
    assert engine_environment(cpu, {}, range(4))["OMP_NUM_THREADS"] == "2"
