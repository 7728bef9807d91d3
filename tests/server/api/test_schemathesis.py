"""Generated requests by schemathesis, checked against the OpenAPI document."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from serval.api.application import create_api
from serval_testkit.clients import clients_environment
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.processes import free_port, running
from serval_testkit.stand_in_engine import StandInEngine

ROOT = Path(__file__).resolve().parents[3]
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
KEY = "sk-test-schemathesis"
BATCHES = "^/v1/(files|batches)"


async def findings(folder: Path, url: str, *options: str) -> tuple[int | None, str]:
    """Run schemathesis in the new folder `folder`; return its exit code and output."""
    await asyncio.to_thread(folder.mkdir)
    program = await asyncio.to_thread(clients_environment) / "bin" / "schemathesis"
    process = await asyncio.create_subprocess_exec(
        program, "--config-file", CONFIGURATION, "run", *options, "--url", url,
        cwd=folder, stdout=PIPE, stderr=STDOUT,
    )  # fmt: skip
    output = (await process.communicate())[0].decode()
    return process.returncode, output


# About 40 s of CPU: longer than the default timeout on a busy machine.
@pytest.mark.timeout(900)
async def test_schemathesis_finds_nothing_unless_the_document_is_wrong(tmp_path: Path) -> None:
    document = create_api().openapi()
    answer = document["paths"]["/healthz"]["get"]["responses"]["200"]["content"]["application/json"]
    answer["schema"] = {"type": "array"}
    spoiled = tmp_path / "wrong.json"
    spoiled.write_text(json.dumps(document))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVAL_")}
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with StandInEngine(model_path=str(DEMO_CHECKPOINT)).running() as engine:
        gateway = [sys.executable, "-c", "import sys; from serval.cli import main; sys.exit(main())"]
        gateway += ["gateway", "--engine-url", engine.url, "--port", str(port)]
        with running(gateway, cwd=ROOT, environment={**environment, "SERVAL_API_KEY": KEY}) as served:
            await asyncio.to_thread(
                served.wait_for_line, lambda line: "serving checkpoint on" in line, timeout_s=180
            )
            right, wrong = await asyncio.gather(
                # Files and batches are a 404 here.
                findings(tmp_path / "right", url, f"{url}/openapi.json", f"--exclude-path-regex={BATCHES}"),
                findings(tmp_path / "wrong", url, str(spoiled), "--include-path=/healthz"),
            )
    code, output = right
    assert code == 0, output
    # All other operations but the document itself were tested.
    assert "Tested: 17" in output
    assert "internal_error" not in served.output
    code, output = wrong
    assert code == 1, output
    assert "Response violates schema" in output
