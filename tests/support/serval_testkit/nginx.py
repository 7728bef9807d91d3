"""A real nginx in front of a server, on a Unix socket in a temporary folder."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

# Looked up on import, before a test changes PATH. Debian's folder for it is not on every user's path.
_PROGRAM: Final = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
_FOLDERS: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_CONFIGURATION: Final = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/log;
events {{ }}
http {{
    access_log off;
    client_max_body_size 0;
    {temporary}
    server {{
        listen unix:{folder}/socket;
        location / {{
            proxy_pass {url};
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection "";
            proxy_request_buffering {buffering};
        }}
    }}
}}
"""


async def _listens(socket: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def nginx_before(url: str, *, buffers_requests: bool) -> AsyncIterator[Path]:
    """Pass requests on to the server at `url`; yields nginx's socket. Skips the test without nginx.

    `buffers_requests`: read a request whole before any of it is passed on.
    """
    if _PROGRAM is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    with tempfile.TemporaryDirectory(prefix="serval-nginx-") as name:
        folder = Path(name)
        configuration = folder / "nginx.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                url=url,
                buffering="on" if buffers_requests else "off",
                temporary=" ".join(f"{each}_temp_path {folder}/{each};" for each in _FOLDERS),
            ),
            encoding="utf-8",
        )
        process = await asyncio.create_subprocess_exec(
            _PROGRAM, "-p", name, "-e", f"{name}/log", "-c", str(configuration),
            stdout=sys.stderr, stderr=sys.stderr,
        )  # fmt: skip
        try:
            while not await _listens(folder / "socket"):
                assert process.returncode is None, (folder / "log").read_text(encoding="utf-8")
                await asyncio.sleep(0.01)
            yield folder / "socket"
        finally:
            process.terminate()
            await process.wait()
