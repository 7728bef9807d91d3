"""Commands on the operators' pages: run, or checked as far as the table in deploy/operations.md says."""

import asyncio
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from serval.cli import ENGINE_COMMANDS, main
from serval_testkit.chart import KEYS, rendered, rendered_text
from serval_testkit.gateway import DEMO_CHECKPOINT, running_gateway
from serval_testkit.metric_names import DEPLOY
from serval_testkit.operator_tools import ROOT, OperatorTools
from serval_testkit.page_commands import PageCommand, commands_of
from serval_testkit.processes import free_port, running
from serval_testkit.stand_in_engine import StandInEngine

RUNBOOKS = sorted((DEPLOY / "runbooks").glob("*.md"))
PAGES = [*sorted(DEPLOY.glob("*.md")), *RUNBOOKS]
TABLE = "## Commands on these pages"
# Rows of the table are no commands.
COMMANDS = [
    command
    for page in PAGES
    for command in commands_of(page)
    if not page.read_text().splitlines()[command.line - 1].startswith("| `")
]
# Beginnings of the commands that tests run.
RUN = {"amtool", "jq", "curl"}
# Subcommands of `serval` that have subcommands.
GROUPS = {"keys", "checkpoint", "tools"}
# Values that differ from those on the pages, and switch on what they change.
CHART_VALUES = (
    *KEYS, "--set", "engine.keySecret=k,image.engine.tag=0.0.9,gateway.resources.limits.cpu=2",
    "--set", "monitoring.serviceMonitor.enabled=true,monitoring.prometheusRule.enabled=true",
    "--set", "ingress.enabled=true,ingress.host=llm.example.org,limits.existingSecret=redis",
    "--set-json", 'engine.flags=["--mtp-fixed"]',
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of the table: the beginning of a command, and what it needs ("-": nothing)."""

    prefix: str
    needs: str


def rows() -> Iterator[Row]:
    """Yield the rows of the table in deploy/operations.md, one for each beginning."""
    text = (DEPLOY / "operations.md").read_text().partition(TABLE)[2]
    for names, needs in re.findall(r"^\| (`.*?`) \| (.*?) \|", text, re.MULTILINE):
        for prefix in re.findall(r"`([^`]*)`", names):
            yield Row(prefix, needs)


def row_of(command: PageCommand) -> Row | None:
    """Return the row with the longest beginning; a query of a log counts, and not what prints the log."""
    text = query_of(command) if " | jq " in command.text else command.text
    fitting = [row for row in rows() if re.match(rf"(?:[A-Z_]+=\S+ )*{re.escape(row.prefix)}\b", text)]
    return max(fitting, key=lambda row: len(row.prefix), default=None)


def query_of(command: PageCommand) -> str:
    return command.text[command.text.index("jq ") :]


def beginning(prefix: str) -> list[PageCommand]:
    """Return the commands of a row."""
    return [command for command in COMMANDS if (row := row_of(command)) and row.prefix == prefix]


def where(command: PageCommand) -> str:
    return f"{command.page.name}:{command.line}: {command.text}"


def test_commands_are_run_or_marked() -> None:
    for command in COMMANDS:
        row = row_of(command)
        assert row is not None, f"{where(command)}: in no row of the table in deploy/operations.md"
        assert row.needs != "-" or row.prefix in RUN, where(command)


def test_table_has_no_idle_row_and_says_what_is_run() -> None:
    assert [row.prefix for row in rows() if not beginning(row.prefix)] == []
    assert {row.prefix for row in rows() if row.needs == "-"} == RUN


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.stem)
def test_runbook_steps_say_what_they_cost(page: Path) -> None:
    steps = re.split(r"^\d+\. ", page.read_text().partition("## Do\n")[2], flags=re.MULTILINE)[1:]
    assert steps
    for step in steps:
        assert re.search(r"\b[Cc]osts?\b|\bsee (?:the list in )?\[", step), step


def test_helm_values_change_the_chart(tools: OperatorTools) -> None:
    plain = rendered_text(tools, *CHART_VALUES)
    for command in [*beginning("helm upgrade"), *beginning("--set")]:
        words = shlex.split(command.text)
        values = [word for before, word in pairwise(["", *words]) if "--set" in (before[:5], word[:5])]
        if values:
            assert rendered_text(tools, *CHART_VALUES, *values) != plain, where(command)


def test_helm_subcommands_exist(tools: OperatorTools) -> None:
    # `helm diff` is a plugin, and the page says so.
    for verb in {command.text.split()[1] for command in beginning("helm")} - {"diff"}:
        assert f"helm {verb}" in tools.run("helm", verb, "--help").stdout


@pytest.fixture(scope="module")
def names_in_the_chart(tools: OperatorTools) -> set[str]:
    """Names that kubectl takes, of a release called serval: objects, containers, labels and claims."""
    found = set()
    for manifest in rendered(tools, *CHART_VALUES):
        kind, name, spec = manifest["kind"], manifest["metadata"]["name"], manifest.get("spec", {})
        found.add(f"{kind}/{name}")
        found |= labels_of(manifest)
        if kind == "StatefulSet":
            found.add(f"Pod/{name}-0")
            claims = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])]
            found |= {f"PersistentVolumeClaim/{claim}-{name}-0" for claim in claims}
        if kind in {"StatefulSet", "Deployment"}:
            found |= labels_of(spec["template"])
            found |= {f"container/{one['name']}" for one in spec["template"]["spec"]["containers"]}
    return found


def labels_of(described: dict[str, Any]) -> set[str]:
    return {f"{name}={value}" for name, value in described["metadata"].get("labels", {}).items()}


def test_kubectl_names_are_in_the_chart(names_in_the_chart: set[str]) -> None:
    wanted = {name: where(command) for command in COMMANDS for name in names_for_kubectl(command.text)}
    assert len(wanted) > 6
    assert {place for name, place in wanted.items() if name not in names_in_the_chart} == set()


def names_for_kubectl(text: str) -> set[str]:
    """Return the names that a call of kubectl relies on, as `names_in_the_chart` has them."""
    if not text.startswith("kubectl "):
        return set()
    text = text.partition(" | ")[0].replace("-N", "-0")
    found = {f"Deployment/{name}" for name in re.findall(r"\bdeploy/(\S+)", text)}
    kinds = {" pvc ": "PersistentVolumeClaim", " secret ": "Secret"}
    kind = next((kind for word, kind in kinds.items() if word in text), "Pod")
    found |= {f"{kind}/{name}" for name in re.findall(r"(?<![\w/-])((?:cache-)?serval-\S+)", text)}
    found |= {f"container/{name}" for name in re.findall(r" -c (\S+)", text)}
    return found | set(re.findall(r" -l (\S+)", text))


def test_greps_of_logs_look_for_texts_that_are_logged() -> None:
    source = "".join(path.read_text() for path in (ROOT / "server/serval").rglob("*.py"))
    phrases = [phrase for command in COMMANDS for phrase in re.findall(r'\| grep "([^"]+)"', command.text)]
    assert phrases
    assert [phrase for phrase in phrases if phrase not in source] == []


def test_compose_subcommands_and_services_exist(tools: OperatorTools) -> None:
    services = set(yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"])
    verbs = set()
    for command in [command for command in COMMANDS if command.text.startswith("docker compose")]:
        assert command.text.startswith("docker compose -f docker/compose.yaml "), where(command)
        verb, *rest = shlex.split(re.split(r" [|<>] ?", command.text)[0])[4:]
        names = [word for word in rest if not word.startswith("-")]
        assert set(names[:1] if verb == "exec" else names) <= services, where(command)
        verbs.add(verb)
    for verb in verbs:
        tools.run("docker-compose", verb, "--help")


def test_serval_subcommands_and_options_exist() -> None:
    asked: dict[tuple[str, ...], set[str]] = {}
    for command in beginning("serval"):
        words = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command.text).split()[1:]
        verbs = words[: 2 if words[0] in GROUPS and len(words) > 1 else 1]
        # One help text names all subcommands of a group.
        options = {word.partition("=")[0] for word in words if word.startswith("--")} or {verbs.pop()}
        asked.setdefault(tuple(verbs), set()).update(options)
    for verbs, options in asked.items():
        text = help_of(verbs)
        missing = {word for word in options if not re.search(rf"(?<![\w-]){word}(?![\w-])", text)}
        assert not missing, (verbs, missing)


def help_of(verbs: Sequence[str]) -> str:
    """Return what `serval VERBS --help` prints; the engine's package has programs of its own."""
    arguments = [*verbs, "--help"]
    if verbs and verbs[0] in ENGINE_COMMANDS:
        return subprocess.check_output([sys.executable, "-m", "serval", *arguments], text=True, cwd=ROOT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code, verbs
    return printed.getvalue()


def test_load_tests_have_the_options() -> None:
    for command in beginning("python -m serval_load"):
        _, _, module, verb, *words = command.text.split()
        text = subprocess.check_output([sys.executable, "-m", module, verb, "--help"], text=True, cwd=ROOT)
        missing = {word for word in words if word.startswith("--") and f"{word} " not in text}
        assert not missing, where(command)


def test_promtool_subcommands_exist(tools: OperatorTools) -> None:
    for command in beginning("promtool"):
        tools.run("promtool", command.text.split()[1], "--help")


def test_files_extras_and_targets_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for command in beginning("pip"):
        (extra,) = re.findall(r"serval-llm\[(\w+)\]", command.text)
        assert extra in project["optional-dependencies"]
    for command in beginning("make"):
        assert f"\n{command.text.split()[1]}:" in (ROOT / "Makefile").read_text()
    for command in beginning("python3"):
        assert (ROOT / command.text.split()[1]).exists()


async def test_curl_commands_are_answered() -> None:
    async with running_gateway() as gateway:
        asked = [command for command in beginning("curl") if "http" in command.text]
        assert len(asked) > 3
        for command in asked:
            text = command.text.replace("http://GATEWAY:8000", gateway.url)
            text = text.replace("http://ENGINE:30000", gateway.engine.url)
            words = ["curl", "--fail", *shlex.split(text)[1:]]
            process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.DEVNULL)
            assert await asyncio.wait_for(process.wait(), 60) == 0, where(command)


def test_alertmanager_files_are_checked(tools: OperatorTools) -> None:
    """The other calls of amtool run in test_alert_delivery.py."""
    checks = [command for command in beginning("amtool") if "--alertmanager.url" not in command.text]
    assert checks
    for command in checks:
        _, verb, name = shlex.split(command.text)
        tools.run("amtool", verb, DEPLOY / "alertmanager" / name)


@pytest.fixture(scope="module")
def gateway_log(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Log of a gateway that answered a request, lost the stream of another, and refused a wrong key."""
    return asyncio.run(log_of_a_gateway(tmp_path_factory.mktemp("log")))


async def log_of_a_gateway(folder: Path) -> str:
    engine, port = StandInEngine(model_path=str(DEMO_CHECKPOINT)), free_port()
    environment = {"SERVAL_KEY_DATABASE": str(folder / "keys.db")}
    create = [sys.executable, "-m", "serval", "keys", "create", "--name=a", "--json"]
    made = await asyncio.to_thread(subprocess.check_output, create, env=os.environ | environment, text=True)
    key = json.loads(made)["key"]
    body = {"model": DEMO_CHECKPOINT.name, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    async with engine.running(), aiohttp.ClientSession() as session:
        environment |= {"SERVAL_ENGINE_URL": engine.url, "SERVAL_MODEL": str(DEMO_CHECKPOINT)}
        command = [sys.executable, "-m", "serval", "gateway", f"--port={port}"]
        with running(command, cwd=folder, environment=environment) as program:
            await asyncio.to_thread(program.wait_for_line, lambda line: " on http://" in line, timeout_s=60)
            engine.will_say("Hello")
            engine.will_say("Hel", fault="cut")
            for token in (key, key, "sk-wrong"):
                headers = {"authorization": f"Bearer {token}"}
                async with session.post(url, json=body, headers=headers) as answer:
                    await answer.read()
            # That of the last request.
            await asyncio.to_thread(
                program.wait_for_line, lambda line: "invalid_api_key" in line, timeout_s=60
            )
            return program.output


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq (apt-get install jq)")
def test_log_queries_read_the_log_of_a_real_gateway(gateway_log: str) -> None:
    # The first line is plain text, at which jq stops if it reads JSON.
    assert not gateway_log.startswith("{")
    assert beginning("jq")
    for command in beginning("jq"):
        done = subprocess.run(
            ["bash", "-ec", f"set -o pipefail; {query_of(command)}"],
            input=gateway_log, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (where(command), done.stderr)
        # A code, or the id of the key that sent two requests.
        assert re.fullmatch(r' *1 "engine_stream_broken"\n| *2 "[0-9a-f]{12}"\n', done.stdout), where(command)
