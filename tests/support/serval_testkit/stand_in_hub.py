"""A stand-in for the Hugging Face Hub, enough for `hf download` of one commit."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def stand_in_hub(folder: Path, commit: str) -> Iterator[str]:
    """Serve the files of a folder as those of a commit of every repository; return the URL."""
    files = {path.name: path for path in folder.iterdir() if path.is_file()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def respond(self) -> None:
            path, headers = self.path.partition("?")[0], {}
            if f"/tree/{commit}" in path:
                tree = [
                    {"type": "file", "path": name, "size": file.stat().st_size, "oid": name}
                    for name, file in files.items()
                ]
                body = json.dumps(tree).encode()
            elif f"/resolve/{commit}/" in path and (name := path.rpartition("/")[2]) in files:
                body = files[name].read_bytes()
                headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": commit}  # noqa: S324
            else:
                body = b""
            self.send_response(200 if body else 404)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")

        do_GET = do_HEAD = respond

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
