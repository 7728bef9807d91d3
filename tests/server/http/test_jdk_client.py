"""A real client that offers HTTP/2 with each request: the JDK's, by default.

curl with `--http2` sends the same offer; `test_protocol.py` tries it byte for byte, beside websocket and TLS.
"""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from serval_testkit.gateway import API_KEY, MODEL, running_gateway

PROGRAM = Path(__file__).parent / "jdk/JdkClient.java"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
CASES = ("first", "second", "chunked", "large", "refused", "streamed")


async def test_jdk_client_is_answered_with_its_default_version_and_with_http_1_1() -> None:
    if shutil.which("java") is None or shutil.which("javac") is None:
        pytest.skip("needs a JDK (Debian: apt-get install default-jdk-headless)")
    async with running_gateway() as gateway:
        client = await asyncio.create_subprocess_exec(
            "java", "-Xmx128m", "-XX:TieredStopAtLevel=1", PROGRAM, gateway.url, API_KEY,
            json.dumps(CHAT), json.dumps({**CHAT, "stream": True}),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, errors = await asyncio.wait_for(client.communicate(), 120)
    assert client.returncode == 0, errors.decode()
    seen = {}
    for line in output.decode().splitlines():
        version, case, status, answer = line.split(" ", 3)
        seen[version, case] = int(status)
        if case == "streamed":
            assert answer == "data: [DONE]"
        elif case != "refused":
            assert json.loads(answer)["choices"][0]["message"]["content"] == "Hello world"
    assert seen == {
        (version, case): 401 if case == "refused" else 200
        for version in ("HTTP_1_1", "HTTP_2")
        for case in CASES
    }
