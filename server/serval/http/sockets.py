"""Listening sockets."""

import socket

from serval.errors import SettingsError


def bind(host: str, port: int, option: str, *, shared: bool = False) -> socket.socket:
    """Return a socket bound to `host` and `port`, which does not listen yet.

    `shared`: other shared sockets may bind the port too; the kernel distributes connections among them.

    Raises `SettingsError`, naming the `option` that sets the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with {option}"
        ) from error
    return listener


def reserve(host: str, port: int, option: str) -> socket.socket:
    """Return a socket that keeps the port for processes that bind it as `shared`. It must not listen.

    Raises `SettingsError` if another process listens there, which binding it as `shared` would not detect.
    """
    with bind(host, port, option) as probe:
        port = probe.getsockname()[1]
    return bind(host, port, option, shared=True)


def url_of(listener: socket.socket) -> str:
    """Return the base URL of `listener`."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
