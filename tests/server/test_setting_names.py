"""Names of settings: unknown variables, and the list of those that others read."""

import subprocess

import pytest

from serval.setting_names import OTHER_VARIABLES, sections, unknown_variables, variable_of
from serval.settings import Settings
from serval_testkit.repository import ROOT

FIELDS = list(Settings.model_fields)
# Files of the repository that name variables without reading or setting them.
NOT_SEARCHED = (":!CHANGELOG.md", ":!tests", ":!server/serval/setting_names.py")


def named_in_the_repository() -> set[str]:
    """The whole names with the prefix in all files, among them those of Compose, the chart and scripts."""
    pattern = r"SERVAL_[A-Z0-9]+(_[A-Z0-9]+)*\b"
    command = ["git", "grep", "--untracked", "-IohE", pattern, "--", ".", *NOT_SEARCHED]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return set(found)


def test_other_variables_are_those_that_the_repository_names() -> None:
    listed = [name for names in OTHER_VARIABLES.values() for name in names]
    settings = {variable_of(field) for field in FIELDS}
    assert sorted(listed) == sorted(named_in_the_repository() - settings)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("SERVAL_PROT", "SERVAL_PROT is set, but there is no such setting; did you mean SERVAL_PORT?"),
        ("serval_prot", "serval_prot is set, but there is no such setting; did you mean SERVAL_PORT?"),
        ("SERVAL_KEYDATABASE", "did you mean SERVAL_KEY_DATABASE?"),
        ("SERVAL_NGRAM_TABLE", "did you mean SERVAL_NGRAM_TABLES?"),
        ("SERVAL_XYZZY", "SERVAL_XYZZY is set, but there is no such setting"),
    ],
)
def test_unknown_variable_is_named_with_the_one_it_resembles(name: str, says: str) -> None:
    found = unknown_variables(["PATH", "SERVAL_HOST", name], FIELDS)
    assert list(found) == [name]
    assert found[name].endswith(says)


def test_known_variables_in_any_case_are_not_reported() -> None:
    assert unknown_variables(["serval_port", "SERVAL_PORT", "SERVAL_CACHE_DIR", "SERVALIA_X"], FIELDS) == {}


def test_sections_hold_each_setting_once_in_order() -> None:
    found = sections(FIELDS)
    assert [name for names in found.values() for name in names] == FIELDS
    assert "" not in found
