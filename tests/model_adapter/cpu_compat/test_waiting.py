"""Idle processes wait for requests: with none, several at once, after a pause; with one rank and more."""

from types import SimpleNamespace
from typing import Any

import pytest

from serval_sglang.cpu_compat import waiting


class RecordingSocket:
    """Socket on which requests arrive as scripted; None stands for a wait that ends without one."""

    def __init__(self, *arrivals: str | None) -> None:
        self.arrivals = list(arrivals)
        self.waits: list[int] = []

    def poll(self, timeout_ms: int) -> bool:
        self.waits.append(timeout_ms)
        if self.arrivals[0] is None:
            self.arrivals.pop(0)
            return False
        return True

    def receive(self) -> str | None:
        return self.arrivals.pop(0)


class Ended(Exception):
    """Raised by the last request, because the loop under test has no end."""


def test_pass_requests_on_waits_and_feeds_the_watchdog(monkeypatch: pytest.MonkeyPatch) -> None:
    io_struct = pytest.importorskip("sglang.srt.managers.io_struct", reason="needs SGLang")
    monkeypatch.setattr(io_struct, "sock_recv", RecordingSocket.receive)
    socket = RecordingSocket(None, None, "first", "second", None, "end")
    events: list[str] = []

    def dispatch(request: str) -> None:
        events.append(request)
        if request == "end":
            raise Ended

    controller: Any = SimpleNamespace(
        soft_watchdog=SimpleNamespace(feed=lambda: events.append("fed")),
        recv_from_tokenizer=socket,
        _request_dispatcher=dispatch,
    )
    with pytest.raises(Ended):
        waiting.pass_requests_on(controller)
    assert events == ["fed", "fed", "fed", "first", "fed", "second", "fed", "fed", "end"]
    assert len(socket.waits) == 6
    assert all(0 < wait <= 100 for wait in socket.waits)


@pytest.mark.parametrize(("ranks", "longest_ms"), [(1, 1000), (2, 100), (8, 100)])
def test_idle_scheduler_sleeps_briefly_only_if_other_ranks_wait_for_it(
    ranks: int, longest_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = pytest.importorskip("sglang.srt.runtime_context", reason="needs SGLang")
    monkeypatch.setattr(context, "get_parallel", lambda: SimpleNamespace(num_dp_ranks=ranks))
    poller = RecordingSocket(None)
    waiting.sleep_until_request(SimpleNamespace(poller=poller))
    (wait,) = poller.waits
    assert longest_ms / 10 < wait <= longest_ms
