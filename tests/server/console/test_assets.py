"""Files of the pages: where foreign ones come from, and that all are the console's own or named."""

import hashlib
import json

from serval.console.assets import STATIC

OWN = {"console.css", "now.js", "playground.js", "PROVENANCE.json"}


def test_foreign_files_are_those_of_their_packages() -> None:
    entries = json.loads((STATIC / "PROVENANCE.json").read_text())
    for entry in entries:
        assert hashlib.sha256((STATIC / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
        assert entry["version"] in (STATIC / entry["file"]).read_text()[:300]
        assert (STATIC / entry["licence_file"]).read_text().startswith(f"{entry['licence']} License")
    named = {entry[name] for entry in entries for name in ("file", "licence_file")}
    assert {path.name for path in STATIC.iterdir()} == OWN | named
