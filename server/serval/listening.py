"""Sockets to listen on."""

import socket

from serval.errors import SettingsError


def bind(host: str, port: int, option: str) -> socket.socket:
    """A socket bound to `host` and `port`; it does not listen yet.

    Raises `SettingsError`, naming the `option` that sets the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with {option}"
        ) from error
    return listener
