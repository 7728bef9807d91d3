"""Starting the real engine on a checkpoint, requesting log-probabilities, and stopping it completely."""

from __future__ import annotations

import ctypes
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from serval_sglang.options import uses_host_cache
from serval_sglang.settings import NO_ENGINE_KEY, inherited_environment

DType = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda"]

START_TIMEOUT_S = 800.0  # of a small model: 10-20 s alone on two cores, minutes beside other work
_STOP_TIMEOUT_S = 120.0
_REQUEST_TIMEOUT_S = 600.0
_LOG_TAIL_CHARACTERS = 6000
_PR_SET_PDEATHSIG = 1


class EngineFailed(RuntimeError):
    """The engine did not become ready, or ended with an error; the message ends with the end of its log."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine."""

    base_url: str
    launcher_pid: int
    log_path: Path

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON answer. Raises EngineFailed with the engine's words if it refuses the request."""
        url = f"{self.base_url}{path}"
        try:
            with _open(url, json.dumps(body).encode()) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            refusal = error.read().decode(errors="replace")
            raise EngineFailed(f"{url} answered {error.code}: {refusal}\n{_tail(self.log_path)}") from error
        except (OSError, ValueError) as error:
            raise EngineFailed(f"{url} gave no answer: {error}\n{_tail(self.log_path)}") from error

    def metric_total(self, name: str, **labels: str) -> float:
        """Return the sum of the engine's Prometheus metric `name` over all series with these labels; 0.0 if
        there are none yet."""
        with _open(f"{self.base_url}/metrics") as response:
            lines = response.read().decode().splitlines()
        samples = (
            line
            for line in lines
            if line.split("{")[0].split(" ")[0] == name
            and all(f'{label}="{value}"' in line for label, value in labels.items())
        )
        return sum(float(line.rsplit(" ", 1)[1]) for line in samples)


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one request; log-probabilities are natural logarithms by token id."""

    prompt: Sequence[int]
    output_ids: Sequence[int]
    # One per output token: the most likely tokens there; None where they were not requested.
    output_top: Sequence[Mapping[int, float] | None]
    prompt_top: Sequence[Mapping[int, float] | None]  # one per prompt token; None for the first
    cached_tokens: int
    # Cached tokens that had left the device and came back from the host's memory (HiCache).
    restored_tokens: int = 0


@contextmanager
def running_engine(
    model_dir: Path | str,
    *,
    dtype: DType,
    tp: int = 1,
    ep: int = 1,
    device: Device | None = "cpu",
    mtp_steps: int = 0,
    mtp_fixed: bool = True,
    extra_flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[Engine]:
    """Run ``python -m serval_sglang.launch`` on a free loopback port, healthy on entry and stopped on exit.

    Args:
        device: None selects a GPU if there is one.
        mtp_steps: tokens drafted at a time by the model's own layer, always with `mtp_fixed`.
        extra_flags: flags of sglang.launch_server.
        environment: variables in addition to this process's own.

    Raises:
        EngineFailed: it ended before it was healthy, did not become healthy in time, or did not stop cleanly.
    """
    port = _free_port()
    arguments = launcher_arguments(
        model_dir,
        port=port,
        dtype=dtype,
        tp=tp,
        ep=ep,
        device=device,
        mtp_steps=mtp_steps,
        mtp_fixed=mtp_fixed,
        extra_flags=extra_flags,
    )
    # -P keeps the working directory off the import path.
    command = [sys.executable, "-P", "-m", "serval_sglang.launch", *arguments]
    with tempfile.TemporaryDirectory(prefix="serval-engine-") as folder:
        log_path = Path(folder) / "engine.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**inherited_environment(), **NO_ENGINE_KEY, **(environment or {})},
                # Ctrl-C in a terminal reaches only this process, which then stops the engine.
                start_new_session=True,
                # Safe: it calls nothing that needs a lock which another thread of this process could hold.
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
            )
        engine = Engine(f"http://127.0.0.1:{port}", process.pid, log_path)
        try:
            _wait_until_healthy(engine, process, timeout_s=start_timeout_s)
            yield engine
        finally:
            returncode = _stop(process)
        if returncode != 0:
            raise EngineFailed(f"the engine stopped with exit code {returncode}:\n{_tail(log_path)}")


def launcher_arguments(
    model_dir: Path | str,
    *,
    port: int,
    dtype: DType,
    tp: int,
    ep: int,
    device: Device | None,
    extra_flags: Sequence[str],
    mtp_steps: int = 0,
    mtp_fixed: bool = True,
) -> list[str]:
    """Return arguments of `serval_sglang.launch`."""
    arguments = [f"--model={model_dir}", f"--port={port}", f"--tp={tp}", f"--ep={ep}"]
    arguments += [] if device is None else [f"--device={device}"]
    if mtp_steps > 0:
        arguments += [f"--mtp-steps={mtp_steps}", *(["--mtp-fixed"] if mtp_fixed else [])]
    # A comparison is what such a feature waits for.
    arguments += ["--allow-untested=hicache"] if uses_host_cache(extra_flags) else []
    return [*arguments, "--", f"--dtype={dtype}", *extra_flags]


def generate(
    engine: Engine,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    log_probabilities: bool = True,
    top: int = 20,
) -> Generation:
    """Decode ``max_new_tokens`` tokens greedily, end-of-sequence tokens included.

    Log-probabilities of the prompt are requested only if ``max_new_tokens`` is 1: they make SGLang compute
    the whole prompt, so that prefix hits could not be tested.

    Raises:
        EngineFailed: it refused the request or gave no answer.
    """
    asked = {
        "input_ids": list(prompt),
        "sampling_params": {"temperature": 0, "max_new_tokens": max_new_tokens, "ignore_eos": True},
    }
    if not log_probabilities:
        answer = engine.post("/generate", asked)
        output_ids, cached = answer["output_ids"], answer["meta_info"]["cached_tokens"]
        return Generation(tuple(prompt), output_ids, [None] * len(output_ids), [], cached)
    of_prompt = max_new_tokens == 1
    start = 0 if of_prompt else -1
    answer = engine.post(
        "/generate",
        {**asked, "return_logprob": True, "top_logprobs_num": top, "logprob_start_len": start},
    )
    meta = answer["meta_info"]
    return Generation(
        prompt=tuple(prompt),
        output_ids=[token for _, token, _ in meta["output_token_logprobs"]],
        output_top=[_by_token(entries) for entries in meta["output_top_logprobs"]],
        prompt_top=[entries and _by_token(entries) for entries in meta["input_top_logprobs"]]
        if of_prompt
        else [],
        cached_tokens=meta["cached_tokens"],
        restored_tokens=(meta.get("cached_tokens_details") or {}).get("host", 0),
    )


def _by_token(entries: Sequence[tuple[float, int, object]]) -> dict[int, float]:
    return {token: logprob for logprob, token, _ in entries}


def _free_port() -> int:
    """Return a free port that the system assigns to no connection, because the engine binds it seconds later.

    It is below the ports from which SGLang chooses its own.
    """
    while True:
        # Not from the module's shared generator, which tests seed.
        port = random.SystemRandom().randrange(10_000, 21_700)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _end_with_parent() -> None:
    """Have the kernel end the launcher if this process is killed. Runs in the launcher, before exec."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _wait_until_healthy(engine: Engine, process: subprocess.Popen[bytes], *, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EngineFailed(f"the engine ended with {process.returncode}:\n{_tail(engine.log_path)}")
        with (
            suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            # Not /health, which takes at least a second.
            _open(f"{engine.base_url}/ready"),
        ):
            return
        time.sleep(0.1)
    raise EngineFailed(f"the engine was not healthy after {timeout_s:.0f} s:\n{_tail(engine.log_path)}")


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM, then SIGKILL after a while or on a second Ctrl-C; the engine ends with its parent."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
    except KeyboardInterrupt:
        process.kill()
        raise


def _tail(log_path: Path) -> str:
    return log_path.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARACTERS:]


def _open(url: str, data: bytes | None = None) -> Any:
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})  # noqa: S310
    return urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S)  # noqa: S310
