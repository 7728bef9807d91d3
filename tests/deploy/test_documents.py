"""Operators' documents: links have targets, and named settings and variables exist."""

import re
from pathlib import Path

import pytest

from serval.setting_names import unknown_variables
from serval.settings import Settings
from serval_testkit.operator_tools import ROOT

DOCUMENTS = sorted(path for folder in ("deploy", "docker", "helm") for path in (ROOT / folder).rglob("*.md"))


def headings(path: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_have_targets(path: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), link
            assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_named_variables_exist(path: Path) -> None:
    assert unknown_variables(re.findall(r"\bSERVAL_[A-Z_]+\b", path.read_text()), Settings.model_fields) == {}
