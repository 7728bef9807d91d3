"""Bill of materials and licences of the locked packages, read from the installed packages without a network.

python deploy/audit/inventory.py sbom       CycloneDX 1.5 JSON
python deploy/audit/inventory.py licences   package, version, licence; exit code 1 if one needs a decision
"""

import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"
# Copyleft that reaches beyond its own files. A person decides, and records the decision below.
NEEDS_A_DECISION = re.compile(r"\bA?GPL|GNU (Affero )?General|SSPL|BUSL|Commons Clause", re.IGNORECASE)
DECIDED: dict[str, str] = {}


@dataclass(frozen=True)
class Package:
    """A package of the lock. `licence` is that of its metadata, or empty."""

    name: str
    version: str
    hashes: tuple[str, ...]
    licence: str


def packages(lock: str) -> Iterator[Package]:
    """Installed packages of a lock with their licences."""
    for entry in re.split(r"\n(?=[a-zA-Z0-9])", lock):
        head = re.match(r"([a-zA-Z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\\n]+)", entry)
        if head:
            hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
            yield Package(head[1], head[2], hashes, licence_of(head[1]))


def licence_of(name: str) -> str:
    """Licence expression of the metadata, else its classifiers, else the first line of its free text."""
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError:  # for another platform or Python
        return ""
    if "License-Expression" in metadata:
        return str(metadata["License-Expression"])
    classifiers = metadata.get_all("Classifier") or []
    named = [
        c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: ") and c.count("::") > 1
    ]
    free = str(metadata.get("License") or "").strip().splitlines()
    return "; ".join(named) or (free[0][:80] if free else "")


def sbom(found: list[Package]) -> dict[str, Any]:
    """CycloneDX document in the order of the lock and without a timestamp: equal locks give equal files."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "serval-llm", "bom-ref": "serval-llm"}},
        "components": [
            {
                "type": "library",
                "bom-ref": f"pkg:pypi/{package.name}@{package.version}",
                "name": package.name,
                "version": package.version,
                "purl": f"pkg:pypi/{package.name}@{package.version}",
                "hashes": [{"alg": "SHA-256", "content": digest} for digest in package.hashes],
                **({"licenses": [{"license": {"name": package.licence}}]} if package.licence else {}),
            }
            for package in found
        ],
    }


def undecided(found: list[Package]) -> list[Package]:
    """Packages whose licence needs a decision."""
    return [p for p in found if NEEDS_A_DECISION.search(p.licence) and p.name not in DECIDED]


def main(arguments: list[str]) -> int:
    """Print the bill of materials or the licences; exit with 1 if a licence needs a decision."""
    if arguments not in (["sbom"], ["licences"]):
        print(__doc__, file=sys.stderr)
        return 2
    found = list(packages(LOCK.read_text(encoding="utf-8")))
    if arguments == ["sbom"]:
        print(json.dumps(sbom(found), indent=1))
        return 0
    for package in found:
        note = DECIDED.get(package.name)
        print(f"{package.name}\t{package.version}\t{package.licence or '-'}{f'  ({note})' if note else ''}")
    for package in undecided(found):
        print(f"needs a decision: {package.name} ({package.licence})", file=sys.stderr)
    return 1 if undecided(found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
