"""Finding an object's source in an installed package without importing it."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path


class NoSuchSource(LookupError):
    """The file or the object is not there."""


@dataclass(frozen=True, slots=True)
class Source:
    first_line: int
    last_line: int
    digest: str  # the first 12 hexadecimal digits of the SHA-256 of the lines

    @property
    def lines(self) -> str:
        return f"{self.first_line}-{self.last_line}"


def find_source(package: str, file: str, name: str) -> Source:
    """Locate ``name`` (a dotted path of classes, functions or assigned names) in ``file`` of ``package``.

    Raises:
        NoSuchSource: nothing of that name is defined there.
    """
    path = Path(str(distribution(package).locate_file(package))) / file
    if not path.is_file():
        raise NoSuchSource(f"{package} has no file {file!r}.")
    text = path.read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        found = [child for child in ast.iter_child_nodes(node) if part in _names(child)]
        if not found:
            raise NoSuchSource(f"{file} defines no {name!r} (nothing called {part!r}).")
        node = found[-1]
    assert isinstance(node, ast.stmt) and node.end_lineno is not None  # noqa: PT018
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    return Source(first, node.end_lineno, hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12])


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []
