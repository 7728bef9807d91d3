"""Other programs in place of the engine's launcher, so that `serval serve` needs no engine of its own."""

from pathlib import Path


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
