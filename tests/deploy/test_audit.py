"""Audit: bill of materials, licences, and the search for credentials."""

import importlib.util
import re
from types import ModuleType

import pytest

from serval_testkit.operator_tools import ROOT, run_and_show


def audit_module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"audit_{name}", ROOT / f"deploy/audit/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look up their module by name.
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


inventory = audit_module("inventory")
secrets = audit_module("secrets")


def test_sbom_has_every_locked_package() -> None:
    lock = inventory.LOCK.read_text()
    bill = inventory.sbom(list(inventory.packages(lock)))
    names = set(re.findall(r"^([a-zA-Z0-9._-]+)(?:\[.*\])?==", lock, re.MULTILINE))
    assert {component["name"] for component in bill["components"]} == names
    assert all(component["hashes"] for component in bill["components"])
    assert len({component["bom-ref"] for component in bill["components"]}) == len(names)


def test_undecided_finds_no_locked_package() -> None:
    assert inventory.undecided(list(inventory.packages(inventory.LOCK.read_text()))) == []


@pytest.mark.parametrize(
    "licence", ["GPL-3.0-only", "AGPL-3.0", "GNU General Public License v2 (GPLv2)", "SSPL-1.0"]
)
def test_undecided_finds_strong_copyleft(licence: str) -> None:
    package = inventory.Package("x", "1", (), licence)
    assert inventory.undecided([package]) == [package]


@pytest.mark.parametrize("licence", ["MIT", "LGPL-2.1-only", "Apache-2.0", ""])
def test_undecided_accepts_permissive_licences(licence: str) -> None:
    assert inventory.undecided([inventory.Package("x", "1", (), licence)]) == []


def test_secrets_finds_no_credential_in_the_tree() -> None:
    run_and_show([ROOT / ".venv/bin/python", ROOT / "deploy/audit/secrets.py"])


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("sk-serval-" + "0a" * 4 + "-" + "0a" * 20, "Serval API key"),
        ("-----BEGIN RSA " + "PRIVATE KEY-----", "private key"),
        ("token = 'hf_" + "a" * 34 + "'", "Hugging Face token"),
        ("AKIA" + "A" * 16, "AWS key"),
        ("postgresql://user:" + "pass@host/db", "password in an address"),
    ],
)
def test_secrets_finds_credentials_unless_exempt(line: str, kind: str) -> None:
    assert list(secrets.findings(f"harmless\n{line}\n")) == [(2, kind)]
    assert list(secrets.findings(f"{line}  # not-a-secret: made up")) == []
