"""Names of SGLang's arguments, read from its source: importing its parser takes half a minute."""

import ast
from importlib.metadata import distribution
from pathlib import Path

SGLANG = Path(str(distribution("sglang").locate_file("sglang")))


def engine_arguments() -> set[str]:
    """Names of the engine's arguments as they are written in Python: `chunked_prefill_size`."""
    trees = [ast.parse(path.read_text()) for path in (SGLANG / "srt/arg_groups").rglob("*.py")]
    return {
        node.target.id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def argument_of(flag: str) -> str:
    """Name of the argument that `--chunked-prefill-size=16` sets."""
    return flag.partition("=")[0].removeprefix("--").replace("-", "_")
