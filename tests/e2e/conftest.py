"""One real server for all end-to-end tests, started with `make serve`."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from serval_testkit.engine_plugins import with_plugins, write_plugin
from serval_testkit.processes import Program, descendants, free_port, running

ROOT = Path(__file__).resolve().parents[2]
API_KEY = "sk-serval-e2e0-0123456789abcdef0123456789abcdef"
OTHER_KEY = "sk-serval-e2e1-0123456789abcdef0123456789abcdef"

ENGINE_KEY = "engine-key-e2e-0123456789abcdef"

SWITCHED = """
import os
from pathlib import Path

from serval_sglang.drafts import forced_tokens


def register():
    chain = forced_tokens.forced_chain

    def switched(grammar, drafts, tokenizer, vocab_size):
        off = Path(os.environ["SERVAL_TEST_SWITCH"]).exists()
        return list(drafts) if off else chain(grammar, drafts, tokenizer, vocab_size)

    forced_tokens.forced_chain = switched
"""


@dataclass(frozen=True)
class LiveServer:
    """Running server. `base_url` ends in `/v1`; `other_key` is the valid key of a second client."""

    program: Program
    folder: Path
    ready_line: str
    base_url: str
    api_key: str
    other_key: str

    @property
    def root_url(self) -> str:
        return self.base_url.removesuffix("/v1")

    @property
    def engine_url(self) -> str:
        """Address of the engine behind the gateway, from its command line."""
        for pid in sorted(descendants(self.program.process.pid)):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"serval_sglang.engine_process" in command:
                port = next(argument for argument in command if argument.startswith(b"--port="))
                return f"http://127.0.0.1:{int(port.removeprefix(b'--port='))}"
        raise AssertionError("no engine among the server's processes")


@pytest.fixture(scope="session")
def engine_key() -> str:
    return ENGINE_KEY


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("keys")
    with running_server(folder, "--console", {"XDG_STATE_HOME": str(folder)}) as live:
        yield live


@pytest.fixture(scope="session")
def server_with_drafts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The same with drafts, three at a time; no drafts come from grammars while its file `off` exists."""
    folder = tmp_path_factory.mktemp("drafts")
    write_plugin(folder, "switched_grammar_drafts", SWITCHED)
    environment = {**with_plugins(folder), "SERVAL_TEST_SWITCH": str(folder / "off")}
    with running_server(folder, "--mtp-steps 3 --mtp-fixed", environment) as live:
        yield live


@contextmanager
def running_server(
    folder: Path, arguments: str = "", more: Mapping[str, str] | None = None
) -> Iterator[LiveServer]:
    """Run `make serve` with these arguments and variables; its files are in `folder`."""
    port = free_port()
    more_keys = folder / "keys"
    # Callers are told apart by the places of their keys, and other gateways on this engine have the first.
    more_keys.write_text(f"sk-serval-unused\n{OTHER_KEY}")
    environment = {
        **os.environ,
        "SERVAL_API_KEY": API_KEY,
        "SERVAL_API_KEY_FILE": str(more_keys),
        "SERVAL_ENGINE_API_KEY": ENGINE_KEY,
        **(more or {}),
    }
    with running(
        ["make", "serve", f"ARGS=--port {port} {arguments}"], cwd=ROOT, environment=environment
    ) as program:
        ready_line = program.wait_for_line(lambda line: line.startswith("serval ready"), timeout_s=600)
        url = re.search(r"url=(\S+)", ready_line)
        assert url, ready_line
        yield LiveServer(program, folder, ready_line, base_url=url[1], api_key=API_KEY, other_key=OTHER_KEY)
