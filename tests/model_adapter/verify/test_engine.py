"""Where an engine under test listens; no engine is started."""

import socket

import pytest

from serval_sglang.verify.engine import _free_port


def test_free_port_is_free_and_below_those_of_connections() -> None:
    # SGLang takes its own ports from 22,000 on, the system gives connections those from 32,768 on.
    ports = {_free_port() for _ in range(20)}
    assert all(10_000 <= port < 22_000 for port in ports)
    for port in ports:
        socket.create_server(("127.0.0.1", port)).close()


def test_free_port_passes_over_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as other:
            free = other.getsockname()[1]
        chosen = iter([taken, free])
        monkeypatch.setattr("random.SystemRandom.randrange", lambda *_: next(chosen))
        assert _free_port() == free
