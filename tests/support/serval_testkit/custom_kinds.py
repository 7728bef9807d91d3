"""Kubernetes kinds of other projects, checked with the schemas that these publish as npm packages."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from serval_testkit.operator_tools import OperatorTools, ToolsMissingError

_FOLDER = Path(__file__).parents[1] / "custom_kinds"
_FILES = ("package.json", "package-lock.json", "check.mjs")
KINDS = {"ServiceMonitor", "PrometheusRule", "ExternalSecret", "HTTPRoute", "ScaledObject"}


def check_custom_kinds(tools: OperatorTools, manifests: list[dict[str, Any]]) -> set[str]:
    """Check manifests of `KINDS`, and return the kinds that were checked. Raises `ToolsMissingError`."""
    chosen = [manifest for manifest in manifests if manifest["kind"] in KINDS]
    done = subprocess.run(
        ["node", "check.mjs"],
        cwd=_installed(tools.folder.parent), input=json.dumps(chosen),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {manifest["kind"] for manifest in chosen}


def _installed(cache: Path) -> Path:
    """Return the folder with the script and its packages."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise ToolsMissingError("there is no node or no npm")
    key = hashlib.sha256(b"".join((_FOLDER / name).read_bytes() for name in _FILES)).hexdigest()[:12]
    folder = cache / f"custom-kinds-{key}"
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / ".complete").exists():
            folder.mkdir(exist_ok=True)
            for name in _FILES:
                shutil.copy(_FOLDER / name, folder)
            command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
            done = subprocess.run(
                command, cwd=folder, env={**os.environ, "npm_config_engine_strict": "false"},
                capture_output=True, text=True, check=False, timeout=200,
            )  # fmt: skip
            if done.returncode != 0:
                raise ToolsMissingError(f"npm ci failed: {done.stderr.strip()[-300:]}")
            (folder / ".complete").touch()
    return folder
