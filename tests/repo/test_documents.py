"""Pages of the repository: links lead somewhere, names exist, and ARCHITECTURE.md names every package."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from serval.setting_names import variable_of
from serval.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
README_LINES = 160
PACKAGES = {
    "serval": ROOT / "server" / "serval",
    "serval_sglang": ROOT / "model_adapter" / "serval_sglang",
    "serval_kernels": ROOT / "kernels" / "serval_kernels",
    "serval_load": ROOT / "loadtests" / "serval_load",
}
# Paths in CONTRIBUTING.md are relative to one of these.
RECIPE_ROOTS = (ROOT, PACKAGES["serval"], PACKAGES["serval_sglang"])


def tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", pattern],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


PAGES = tracked("*.md")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Local links of a page, as the file and the anchor in it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            yield (page.parent / file).resolve() if file else page, anchor


def anchors(page: Path) -> set[str]:
    """Anchors of headings as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in links(page):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target), f"{name(target)}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_variables_that_pages_name_exist(page: Path) -> None:
    compose = set(re.findall(r"^([A-Z_]+)=", (ROOT / "docker" / ".env.example").read_text(), re.MULTILINE))
    of_settings = {variable_of(field) for field in Settings.model_fields}
    on_settings_page = set(re.findall(r"SERVAL_[A-Z_]+\b", (ROOT / "server" / "SETTINGS.md").read_text()))
    named = set(re.findall(r"\bSERVAL_[A-Z]+(?:_[A-Z]+)*\b", page.read_text()))
    assert named <= compose | of_settings | on_settings_page


def test_pages_are_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for target, _ in links(page):
            # A link to a folder is one to all that is in it.
            inside = target.glob("*.md") if target.is_dir() else [target]
            waiting += [path for path in inside if path.suffix == ".md"]
    assert {name(page) for page in PAGES} - {name(page) for page in reached} == set()


def test_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def parts(package: Path) -> set[str]:
    """Direct packages (`NAME/`) and modules (`NAME.py`) of a package."""
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    return folders | {path.name for path in package.glob("*.py") if path.name != "__init__.py"}


@pytest.mark.parametrize("package", PACKAGES)
def test_architecture_names_every_package_and_module(package: str) -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    section = text.split(f"\n### {package}\n")[1].split("\n## ")[0].split("\n### ")[0]
    rows = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
    assert set(re.findall(r"`([^`]+)`", " ".join(rows))) == parts(PACKAGES[package])


def recipe_paths() -> set[str]:
    """Files and folders that "How to add" in CONTRIBUTING.md names."""
    recipes = (ROOT / "CONTRIBUTING.md").read_text().split("\n## How to add")[1]
    quoted = re.findall(r"`([\w./-]+)`", recipes)
    return {text for text in quoted if re.search(r"/$|\.(py|md|yaml|lua|toml)$", text)}


def exists(path: str) -> bool:
    # NAME is the one that is added.
    target = str(Path(path).parent) if "NAME" in path else path
    return any((root / target).exists() for root in RECIPE_ROOTS)


def test_recipes_name_files_that_exist() -> None:
    assert len(recipe_paths()) > 30
    assert [path for path in recipe_paths() if not exists(path)] == []


def test_changelog_begins_with_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    titles = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert titles[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", titles[1])
