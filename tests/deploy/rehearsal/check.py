"""What the rehearsal asks of the running stack: `check.py COMPOSE-COMMAND...`, beside the published ports."""

import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROXY = "https://localhost"
KEY = Path(os.environ["SERVAL_KEYS_FILE"]).read_text().strip()
WAIT_S = 300  # the alert waits for two minutes, and the machine may be busy
QUESTION = {
    "model": "longcat-flash-lite-demo",
    "messages": [{"role": "user", "content": "Hello"}],
    "stream": True,
}


def open_url(url: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the proxy; its certificate is its own."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(  # noqa: S310
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )
    return urllib.request.urlopen(request, timeout=WAIT_S, context=trusting)  # noqa: S310


def inside(compose: Sequence[str], service: str, *command: str) -> str:
    """Run a command in a service's container; what it printed."""
    argv = [*compose, "exec", "-T", service, *command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def until(what: str, question: Any) -> None:
    """Wait until `question` answers yes."""
    deadline = time.monotonic() + WAIT_S
    while not question():
        assert time.monotonic() < deadline, f"not within {WAIT_S} s: {what}"
        time.sleep(1)
    print(f"ok: {what}")


def main(compose: Sequence[str]) -> None:
    """Every check in turn; the first that fails ends it."""
    with open_url(f"{PROXY}/v1/models") as response:
        assert json.load(response)["data"][0]["id"] == QUESTION["model"]
    print("ok: the proxy reaches the gateway with TLS")

    arrivals = []
    with open_url(f"{PROXY}/v1/chat/completions", QUESTION) as response:
        for line in response:
            if b"word" in line:
                arrivals.append(time.monotonic())
    assert len(arrivals) == 40
    assert arrivals[-1] - arrivals[0] > 1, "the answer came in one piece"
    print("ok: the answer is streamed through the proxy")

    for service in ("gateway-demo", "engine-demo"):
        assert inside(compose, service, "id", "-u").strip() == "10001"
        probe = "import pathlib; pathlib.Path('/opt/serval/x').write_text('')"
        command = [*compose, "exec", "-T", service, "python", "-c", probe]
        refused = subprocess.run(command, capture_output=True, check=False)
        assert b"Read-only file system" in refused.stderr
    print("ok: user 10001, read-only root")

    def targets_up() -> bool:
        query = "promtool query instant http://127.0.0.1:9090 sum(up)"
        return "=> 4 @" in inside(compose, "prometheus", *query.split())

    until("Prometheus scrapes its four targets", targets_up)
    drain(compose)

    def firing() -> bool:
        alerts = ["amtool", "--alertmanager.url=http://127.0.0.1:9093", "alert", "query", "-o", "json"]
        names = {
            alert["labels"]["alertname"] for alert in json.loads(inside(compose, "alertmanager", *alerts))
        }
        return "ServalGatewayDown" in names

    until("Alertmanager has the alert of the stopped gateway", firing)


def drain(compose: Sequence[str]) -> None:
    """Stop the gateway in the middle of an answer: the answer ends whole."""
    with open_url(f"{PROXY}/v1/chat/completions", QUESTION) as response:
        first = next(line for line in response if b"word" in line)
        stopping = threading.Thread(target=subprocess.run, args=([*compose, "stop", "gateway-demo"],))
        stopping.start()
        rest = response.read()
    stopping.join()
    assert b"word1 " in first
    assert b"word40 " in rest
    assert rest.endswith(b"data: [DONE]\n\n")
    listing = [*compose, "ps", "--all", "--format", "{{.Service}} {{.ExitCode}}"]
    state = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    assert "gateway-demo 0" in state, state
    print("ok: a stopped gateway finishes its answer and exits with 0")


if __name__ == "__main__":
    main(sys.argv[1:])
