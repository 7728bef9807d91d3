"""A new user: the README's commands typed into clean shells, in order, as pasted.

Only the port differs, and `make serve` finds the engine of these tests in place of starting another.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from serval_testkit.clients import CLIENTS, command_of
from serval_testkit.launcher import replace_launcher
from serval_testkit.processes import free_port
from serval_testkit.shell import Shell, open_shell

pytestmark = pytest.mark.engine

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTED_URL = "http://127.0.0.1:8000"
# Passes on everything between the port that it is given and an engine that runs already.
FORWARDER = """
import asyncio, sys

async def copy(reader, writer):
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()

async def forward(reader, writer):
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", ENGINE_PORT)
    await asyncio.gather(copy(reader, there_writer), copy(there_reader, writer), return_exceptions=True)

async def main():
    port = int(sys.argv[sys.argv.index("--port") + 1])
    await (await asyncio.start_server(forward, "127.0.0.1", port)).serve_forever()

if "--check" not in sys.argv:
    asyncio.run(main())
"""


def code_block(language: str, *, containing: str = "") -> str:
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    found = [block for block in blocks if containing in block]
    assert len(found) == 1, f"{len(found)} blocks of {language} with {containing!r}"
    return found[0]


def commands(containing: str) -> list[str]:
    """Commands of a block of the console, without the prompt."""
    return re.findall(r"^\$ (.*)$", code_block("console", containing=containing), re.MULTILINE)


def clean_environment(folder: Path) -> dict[str, str]:
    """HOME and PATH, where `make` finds the packages that are installed already, and a folder for logs."""
    needed = ("HOME", "PATH", "PYTHON", "SERVAL_CACHE_DIR", "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name in needed}
    return kept | {"XDG_STATE_HOME": str(folder / "state")}


@pytest.fixture(scope="module")
def serving(
    server: Any, engine_key: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The first terminal, in which `make serve` runs: the URL and the key that it showed."""
    folder = tmp_path_factory.mktemp("readme")
    replace_launcher(folder, FORWARDER.replace("ENGINE_PORT", str(urlsplit(server.engine_url).port)))
    environment = clean_environment(folder)
    environment |= {"PYTHONPATH": str(folder), "SERVAL_ENGINE_API_KEY": engine_key}
    command, port = commands("make test")[0], free_port()
    assert command.split()[:2] == ["make", "serve"]
    with open_shell(cwd=ROOT, environment=environment) as shell:
        shell.type(command.replace("make serve", f'make serve ARGS="--port {port}"') + "\n")
        # The next prompt means that it has failed.
        shown = shell.wait_for(r"key   (sk-serval-\S+)|<2>\$ ", timeout_s=300)
        assert shown[1], shell.shown
        shell.wait_for("curl ")
        yield f"http://127.0.0.1:{port}", shown[1]
        shell.interrupt()
        shell.wait_for(r"stopped\n")


@pytest.fixture(scope="module")
def terminal(serving: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The second terminal, after the commands that set it up."""
    _, key = serving
    with open_shell(cwd=ROOT, environment=clean_environment(tmp_path_factory.mktemp("second"))) as shell:
        *setup, chat = commands("SERVAL_API_KEY")
        assert re.match(r"serval chat( |$)", chat)
        for command in setup:
            said = shell.run(command.replace("sk-serval-...", key))
            assert "not found" not in said
        yield shell


@pytest.fixture
def url(serving: tuple[str, str]) -> str:
    return serving[0]


def here(example: str, url: str) -> str:
    assert DOCUMENTED_URL in example
    return example.replace(DOCUMENTED_URL, url)


def without_what_changes(completion: dict[str, Any]) -> dict[str, Any]:
    """Remove id and time, and the cached tokens, which depend on earlier requests."""
    kept = {key: value for key, value in completion.items() if key not in {"id", "created"}}
    kept["usage"].pop("prompt_tokens_details")
    return kept


def test_readme_sets_up_a_terminal_with_serval_and_python(terminal: Shell) -> None:
    assert str(ROOT / ".venv/bin/serval") in terminal.run("command -v serval")
    assert str(ROOT / ".venv/bin/python") in terminal.run("command -v python")


def test_readme_chat_answers(terminal: Shell, url: str) -> None:
    said = terminal.run(f"echo 'What is Serval?' | serval chat --url {url}/v1")
    assert "\nServal is an inference server for LongCat-Flash-Lite." in said


def test_readme_agent_prints_a_configuration(terminal: Shell, url: str) -> None:
    (command,) = commands("serval agent")
    said = terminal.run(f"{command} --url {url}/v1")
    assert f'"ANTHROPIC_BASE_URL": "{url}"' in said


def test_readme_curl_prints_what_it_says(terminal: Shell, url: str) -> None:
    said = terminal.run(here(code_block("bash", containing="curl"), url))
    printed = json.loads(said[said.index('{"id"') :])
    assert without_what_changes(printed) == without_what_changes(json.loads(code_block("json")))


def test_readme_python_prints_what_it_says(terminal: Shell, url: str, tmp_path: Path) -> None:
    (tmp_path / "call.py").write_text(here(code_block("python"), url))
    said = terminal.run(f"python {tmp_path}/call.py")
    assert said.partition("\n")[2] == code_block("text")


def test_readme_node_prints_an_answer(terminal: Shell, url: str, tmp_path: Path) -> None:
    command_of("openai_client.mjs")  # installs the package, or skips
    (tmp_path / "hello.mjs").write_text(here(code_block("js"), url))
    (tmp_path / "node_modules").symlink_to(CLIENTS / "node_modules")
    said = terminal.run(f"node {tmp_path}/hello.mjs; echo")
    assert "\nThe capital of France is Paris." in said
