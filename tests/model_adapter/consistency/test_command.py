"""The command against a stand-in for an engine that answers by a rule, and by a wrong one from its cache."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from serval_sglang.consistency import __main__ as command
from serval_sglang.consistency.__main__ import main
from serval_sglang.known_configs import TINY
from serval_sglang.verify.engine import Engine


class StandIn(BaseHTTPRequestHandler):
    """Answers with tokens that follow from the prompt; `spoils_hits` forgets the prompt's end after a hit."""

    seen: set[tuple[int, ...]]
    spoils_hits: bool
    remembers: bool
    flushed: list[str]

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        asked = json.loads(self.rfile.read(length) or b"{}")
        self.send_response(200)
        self.end_headers()
        prompt = tuple(asked["input_ids"])
        hit = prompt in self.seen and self.remembers
        self.seen.add(prompt)
        base = sum(prompt[:-1] if hit and self.spoils_hits else prompt)
        tokens = [(base + step) % 50 for step in range(asked["sampling_params"]["max_new_tokens"])]
        top = [[[-0.1, token, None], [-3.0, token + 1, None]] for token in tokens]
        meta = {"output_token_logprobs": [[-0.1, t, None] for t in tokens], "output_top_logprobs": top}
        meta |= {"input_top_logprobs": [], "cached_tokens": len(prompt) - 1 if hit else 0}
        self.wfile.write(json.dumps({"output_ids": tokens, "meta_info": meta}).encode())

    def do_GET(self) -> None:
        self.flushed.append(self.path)
        self.seen.clear()
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def stand_in(*, spoils_hits: bool = False, remembers: bool = True) -> Iterator[tuple[str, list[str]]]:
    flushed: list[str] = []
    fields = {"seen": set(), "spoils_hits": spoils_hits, "remembers": remembers, "flushed": flushed}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (StandIn,), fields))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", flushed
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(TINY.to_dict()))
    return tmp_path


def test_consistency_of_a_right_engine(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stand_in() as (url, flushed):
        assert main(["--model", str(model), "--url", url, "--requests", "8", "--tokens", "4"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("agrees  again, from the prefix cache: 8 of 8 answers")
    assert said[1].startswith("agrees  8 in one batch: 8 of 8 answers")
    assert said[2] == "consistent in 2 ways"
    assert len(flushed) == 2


def test_consistency_finds_wrong_history_after_a_prefix_hit(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stand_in(spoils_hits=True) as (url, _):
        assert main(["--model", str(model), "--url", url, "--requests", "8", "--tokens", "4"]) == 1
    said = capsys.readouterr().out
    assert "DISAGREES  again, from the prefix cache: 0 of 8 answers" in said
    assert said.endswith("INCONSISTENT: again, from the prefix cache\n")


def test_consistency_is_not_shown_without_prefix_hits(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with stand_in(remembers=False) as (url, _):
        assert main(["--model", str(model), "--url", url, "--requests", "4", "--tokens", "4"]) == 1
    assert "no request met a cached prefix" in capsys.readouterr().err


def test_consistency_reports_an_engine_that_is_gone(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stand_in() as (url, _):
        pass
    assert main(["--model", str(model), "--url", url]) == 1
    assert "consistency: error:" in capsys.readouterr().err


def test_consistency_starts_an_engine_for_each_set_of_flags(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[tuple[str, ...]] = []

    @contextmanager
    def running(directory: Path, *, extra_flags: list[str], **options: object) -> Iterator[Engine]:
        assert (directory, options["tp"], options["dtype"]) == (model, 2, "bfloat16")
        started.append(tuple(extra_flags))
        with stand_in() as (url, _):
            yield Engine(url, launcher_pid=0, log_path=model / "log")

    monkeypatch.setattr(command, "running_engine", running)
    beside = ["--beside=--chunked-prefill-size=16 --page-size=1", "--beside=--disable-radix-cache"]
    few = ["--requests", "4", "--tokens", "4"]
    assert main(["--model", str(model), "--tp", "2", *few, *beside, "--", "--log-level=info"]) == 0
    assert started == [
        ("--log-level=info",),
        ("--log-level=info", "--chunked-prefill-size=16", "--page-size=1"),
        ("--log-level=info", "--disable-radix-cache"),
    ]
    said = capsys.readouterr().out.splitlines()
    assert said[2].startswith("agrees  engine with --chunked-prefill-size=16 --page-size=1: 4 of 4")
    assert said[-1] == "consistent in 4 ways"
