"""Other programs in place of the engine's launcher, so that `serval serve` needs no engine of its own."""

import os
from pathlib import Path

from serval_testkit.repository import ROOT

_STAND_IN = """
import argparse, asyncio, sys
from serval_testkit.stand_in_engine import StandInEngine

async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model"), parser.add_argument("--port", type=int)
    args, _ = parser.parse_known_args()
    async with StandInEngine(model_path=args.model).running(args.port):
        await asyncio.Event().wait()

if "--check" not in sys.argv:
    print("engine started", flush=True)
    asyncio.run(main())
"""


def replace_launcher(folder: Path, program: str) -> None:
    """Make `program` the engine's launcher where PYTHONPATH names `folder`.

    `serval serve` runs it with `--check` before it starts it.
    """
    package = folder / "serval_sglang"
    package.mkdir()
    # Everything but the launcher comes from the real package.
    (package / "__init__.py").write_text(
        "from pkgutil import extend_path\n__path__ = extend_path(__path__, __name__)\n"
    )
    (package / "launch.py").write_text(program)


def with_stand_in(folder: Path) -> dict[str, str]:
    """Return an environment in which the engine's launcher starts a stand-in."""
    replace_launcher(folder, _STAND_IN)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SERVAL_")}
    return environment | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT / 'tests/support'}"}
