"""Manifests checked with the schemas of the Kubernetes API."""

import sys
from pathlib import Path

from serval_testkit.operator_tools import OperatorTools, run_and_show

VERSIONS = ("1.30.0", "1.37.0")  # the oldest that the chart supports, and the newest known


def check_against_api(tools: OperatorTools, path: Path) -> None:
    """Fail if an API server of one of `VERSIONS` would refuse a manifest in `path`."""
    versions = [part for version in VERSIONS for part in ("-k", version)]
    program = "import sys; from kubernetes_validate.__main__ import main; sys.exit(main())"
    paths = {"PYTHONPATH": str(tools.folder / "python")}
    run_and_show([sys.executable, "-c", program, "--strict", *versions, path], env=paths)
