"""Ports for one process and for several."""

import socket
from contextlib import closing

import pytest

from serval.errors import SettingsError
from serval.http.sockets import bind, reserve, url_of

HOST = "127.0.0.1"


def test_reserve_lets_shared_sockets_bind_the_port() -> None:
    with closing(reserve(HOST, 0, "--port")) as kept:
        port = kept.getsockname()[1]
        one, two = (bind(HOST, port, "--port", shared=True) for _ in range(2))
        with closing(one), closing(two):
            one.listen()
            two.listen()
        with (
            pytest.raises(SettingsError, match=f"cannot listen on {HOST}:{port}"),
            socket.create_server((HOST, port)),
        ):
            bind(HOST, port, "--port")


def test_reserve_refuses_a_port_that_others_share() -> None:
    with closing(bind(HOST, 0, "--port", shared=True)) as other:
        other.listen()
        with pytest.raises(SettingsError, match="choose another with --port"):
            reserve(HOST, other.getsockname()[1], "--port")


def test_url_of_a_socket() -> None:
    with closing(bind("::1", 0, "--port")) as listener:
        assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"
