"""Sockets to listen on."""

import socket

from serval.errors import SettingsError


def bind(host: str, port: int, option: str, *, shared: bool = False) -> socket.socket:
    """A socket bound to `host` and `port`; it does not listen yet.

    `shared`: others that say so too may listen there; the kernel deals connections out among them.

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
    """A socket that keeps `host` and `port` for processes that bind them as `shared`. It must not listen.

    Raises `SettingsError` if anybody else listens there, which binding it as `shared` alone would not show.
    """
    with bind(host, port, option) as probe:
        port = probe.getsockname()[1]
    return bind(host, port, option, shared=True)


def url_of(listener: socket.socket) -> str:
    """The base URL of what is served on `listener`."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
