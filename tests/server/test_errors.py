"""The exception tree and its mapping to the wire."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from serval import errors
from serval.errors import ApiError, MethodNotAllowedError, UnsupportedEncodingError, error_object


def leaves(kind: type[ApiError]) -> Iterator[type[ApiError]]:
    for child in kind.__subclasses__():
        yield child
        yield from leaves(child)


NEEDED: dict[type[ApiError], dict[str, str]] = {
    MethodNotAllowedError: {"allow": "GET"},
    UnsupportedEncodingError: {"accepted": "gzip"},
}


@pytest.mark.parametrize("kind", list(leaves(ApiError)), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_a_type_and_a_code(kind: type[ApiError]) -> None:
    error = kind("m", **NEEDED.get(kind, {}))
    assert 400 <= kind.status < 600
    assert kind.status != 422
    body = error_object(error)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"]


def test_default_codes_are_unique() -> None:
    kinds = list(leaves(ApiError))
    assert len({kind.default_code for kind in kinds}) == len(kinds)


def test_tree_names_every_error() -> None:
    modules = Path(errors.__file__).parent.rglob("*.py")
    defined = [
        (node.name, {base.id for base in node.bases if isinstance(base, ast.Name)})
        for module in modules
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    tree = {"ServalError"}
    # A class may stand before its base in this list: one round for each level of the tree.
    for _ in range(5):
        tree |= {name for name, bases in defined if bases & tree}
    assert tree == set(re.findall(r"\b\w+Error\b", errors.__doc__ or ""))
