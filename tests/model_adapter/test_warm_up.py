"""Sampled requests before an engine is ready, sent to a stand-in HTTP server."""

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from serval_sglang import warm_up as module
from serval_sglang.warm_up import Target, WarmUpFailed, sample, warm_up

DONE = {"meta_info": {"finish_reason": {"type": "length", "length": 2}}}
TWO: Mapping[str, Mapping[str, Any]] = {"min_p": {"min_p": 0.1}, "penalties": {"presence_penalty": 0.1}}


class StandInServer:
    """Notes the bodies of requests to /generate, and answers with `status` and `answer`."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.status = 200
        self.answer: Mapping[str, Any] = DONE
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(200, {})

            def do_POST(self) -> None:
                assert self.path == "/generate"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stand_in.bodies.append(json.loads(body))
                stand_in.authorizations.append(self.headers["Authorization"])
                self._reply(stand_in.status, stand_in.answer)

            def _reply(self, status: int, answer: Mapping[str, Any]) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.target = Target(
            url=f"http://127.0.0.1:{self._server.server_port}", headers={"Authorization": "a"}, verify=True
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[StandInServer]:
    started = StandInServer()
    yield started
    started.close()


def test_sample_sends_each_request_outside_the_metrics(server: StandInServer) -> None:
    sample(server.target, TWO)
    assert [body["log_metrics"] for body in server.bodies] == [False, False]
    assert all(body["sampling_params"]["temperature"] > 0 for body in server.bodies)
    for body, sampling in zip(server.bodies, TWO.values(), strict=True):
        assert sampling.items() <= body["sampling_params"].items()
    assert set(server.authorizations) == {"a"}
    assert not {"routed_dp_rank", "bootstrap_host"} & server.bodies[0].keys()


def test_sample_reaches_every_rank_of_attention_dp(server: StandInServer) -> None:
    sample(replace(server.target, ranks=2, bootstrap_host="2.2.2.2"), TWO)
    assert [body["routed_dp_rank"] for body in server.bodies] == [0, 1, 0, 1]
    assert {(body["bootstrap_host"], body["bootstrap_room"]) for body in server.bodies} == {
        ("2.2.2.2", 0),
        ("2.2.2.2", 1),
    }


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (400, {"error": {"message": "no kernel"}}, "samples with min_p was refused: .*no kernel"),
        (
            200,
            {"meta_info": {"finish_reason": {"type": "abort", "message": "no kernel"}}},
            "samples with min_p was aborted: no kernel",
        ),
    ],
)
def test_sample_fails_with_the_engines_words(
    server: StandInServer, status: int, answer: Mapping[str, Any], said: str
) -> None:
    server.status, server.answer = status, answer
    with pytest.raises(WarmUpFailed, match=said):
        sample(server.target, TWO)


def test_sample_fails_without_an_answer(server: StandInServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LISTEN_TIMEOUT_S", 0.0)
    server.close()
    with pytest.raises(WarmUpFailed, match="its HTTP server does not answer"):
        sample(server.target, TWO)


@pytest.fixture
def upstream(monkeypatch: pytest.MonkeyPatch, server: StandInServer) -> list[str]:
    """Steps of SGLang that follow a sampled request."""
    http_server = pytest.importorskip("sglang.srt.entrypoints.http_server", reason="needs SGLang")
    from sglang.srt import utils

    steps: list[str] = []
    monkeypatch.setattr(http_server, "_execute_server_warmup", lambda _: steps.append("own warm-up") or True)
    monkeypatch.setattr(utils, "kill_process_tree", lambda _: steps.append("end"))
    monkeypatch.setattr(module, "_target", lambda _: server.target)
    monkeypatch.setattr(module, "_sampled_requests", lambda _: TWO)
    return steps


def test_warm_up_samples_before_sglangs_own(upstream: list[str], server: StandInServer) -> None:
    assert warm_up(SimpleNamespace())
    assert upstream == ["own warm-up"]
    assert len(server.bodies) == 2


def test_warm_up_ends_the_engine_if_it_cannot_sample(
    upstream: list[str], server: StandInServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """SGLang's warm-up would report it ready."""
    server.status, server.answer = 500, {"error": "no kernel"}
    assert not warm_up(SimpleNamespace())
    assert upstream == ["end"]
    assert "serval: the engine is not ready: a request that samples with min_p was refused" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("device", "skip_tokenizer_init", "grammar_backend", "mode", "left_out"),
    [
        ("cuda", False, "xgrammar", "null", set()),
        ("cuda", False, "xgrammar", "prefill", set()),
        ("cuda", False, "xgrammar", "decode", {"a grammar"}),
        ("cuda", True, "xgrammar", "null", {"a grammar"}),
        ("cuda", False, "none", "null", {"a grammar"}),
        ("cpu", False, "xgrammar", "null", {"a repetition penalty"}),
    ],
)
def test_sampled_requests_are_those_that_the_engine_accepts(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    skip_tokenizer_init: bool,
    grammar_backend: str,
    mode: str,
    left_out: set[str],
) -> None:
    context = pytest.importorskip("sglang.srt.runtime_context", reason="needs SGLang")
    kernel = SimpleNamespace(grammar_backend=grammar_backend)
    monkeypatch.setattr(context, "get_exec", lambda: SimpleNamespace(kernel=kernel))
    serving = SimpleNamespace(skip_tokenizer_init=skip_tokenizer_init)
    monkeypatch.setattr(context, "get_serving", lambda: serving)
    monkeypatch.setattr(context, "get_disagg", lambda: SimpleNamespace(disaggregation_mode=mode))
    everything = {*module._SAMPLED, *module._CONSTRAINED, *module._COMPILED}
    assert everything - module._sampled_requests(SimpleNamespace(device=device)).keys() == left_out
