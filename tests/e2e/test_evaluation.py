"""`serval eval` with its real harnesses on the demo model: one command, interrupted and resumed."""

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from serval_testkit.processes import descendants, is_running, running

pytestmark = pytest.mark.engine


def command(url: str, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "serval", "eval", "bfcl:simple_python,irrelevance", "gsm8k-sample"),
        *("--limit", "3", "--max-tokens", "40", "--concurrency", "1", "--url", url, "--out", str(out)),
    ]


@dataclass
class HeldServer:
    """Passes requests on to a server, until `answers` questions are answered; the next is never answered."""

    url: str
    answers: int
    held: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve on a free port; yields the base URL."""
        httpd = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{httpd.server_address[1]}/v1"
        finally:
            self.over.set()
            httpd.shutdown()
            httpd.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        here = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._pass_on(None)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if here.answers == 0:
                    here.held.set()
                    here.over.wait()
                    return
                here.answers -= 1
                self._pass_on(body)

            def _pass_on(self, body: bytes | None) -> None:
                names = ("authorization", "content-type")
                headers = {name: self.headers[name] for name in names if self.headers[name]}
                there = urllib.request.Request(here.url + self.path, body, headers)  # noqa: S310  # the test's own server
                with urllib.request.urlopen(there) as answer:  # noqa: S310
                    content = answer.read()
                self.send_response(200)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def test_evaluation_goes_on_after_an_interruption(server: Any, tmp_path: Path) -> None:
    environment = {**os.environ, "SERVAL_API_KEY": server.api_key}
    recording = tmp_path / "bfcl/trial-001/requests.jsonl"
    passing = HeldServer(server.root_url, answers=2)
    with (
        passing.running() as url,
        running(command(url, tmp_path), cwd=tmp_path, environment=environment) as program,
    ):
        deadline = time.monotonic() + 240
        while not passing.held.wait(0.1):
            assert program.process.poll() is None, program.output
            assert time.monotonic() < deadline, program.output
        started = descendants(program.process.pid)
        program.signal(signal.SIGTERM)
        assert program.wait(timeout_s=120) == 1
        assert "run the same command again" in program.output
        assert not [pid for pid in started if is_running(pid)]
    before = recording.read_text().splitlines()
    assert len(before) == 2
    with running(command(server.base_url, tmp_path), cwd=tmp_path, environment=environment) as program:
        assert program.wait(timeout_s=240) == 0, program.output
    assert "bfcl, trial 1 of 1: 2 answers are there already" in program.output
    after = recording.read_text().splitlines()
    assert after[:2] == before
    # Each problem is asked once in both runs together.
    requests = [json.loads(line)["request"] for line in after]
    assert len(requests) == 6
    assert len({json.dumps(request["messages"]) for request in requests}) == 6
    assert all(request["tools"] and request["max_tokens"] == 40 for request in requests)

    bfcl = json.loads((tmp_path / "bfcl/result.json").read_text())
    # The demo model hardly ever calls these tools: right where no call is right.
    irrelevance, simple = bfcl["tasks"]["irrelevance"], bfcl["tasks"]["simple_python"]
    assert (irrelevance["problems"], simple["problems"], simple["mean"]) == (3, 3, 0.0)
    assert irrelevance["mean"] > 0.6
    assert f"{50 * irrelevance['mean']:.1f} % of 6 problems, 95 % interval" in program.output
    gsm8k = json.loads((tmp_path / "gsm8k-sample/result.json").read_text())
    assert (gsm8k["score"]["problems"], gsm8k["score"]["mean"], gsm8k["refused"]) == (3, 0.0, 0)
    assert "Serval" in json.loads((tmp_path / "bfcl/run.json").read_text())["server_version"]
    assert server.api_key not in "".join(path.read_text() for path in tmp_path.rglob("*.json*"))
