"""The index of a repository, in the examples' own environment, which has the parser and the ranking."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from serval_testkit.repository import ROOT

PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from repository_index import index_of, words_of
index = index_of(Path(sys.argv[2]))
print(json.dumps({
    "files": list(index.files),
    "chunks": [[one.path, one.begin, one.end, one.names] for one in index.chunks],
    "found": {query: [one.path for one in index.search(query, 2)] for query in sys.argv[3:]},
    "words": words_of("parseHTTPResponse max_body_bytes v2"),
}))
"""
CLASS = "class Limiter:\n" + "".join(
    f"    def rule_{number}(self):\n" + "        step = 1\n" * 28 + "        return step\n"
    for number in range(5)
)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, examples_python: Path) -> Any:
    root = tmp_path_factory.mktemp("repository").resolve()
    (root / "limits.py").write_text(CLASS)
    (root / "web").mkdir()
    (root / "web/client.ts").write_text("export function openSocket(url: string) {\n  return url;\n}\n")
    (root / "README.md").write_text("How to count tokens.\n" * 100)
    (root / ".env").write_text("secret = 1\n")
    (root / "data.bin").write_bytes(b"\0\1socket")
    (root / "empty.py").write_text("")
    queries = ["open socket", "rule_4", "limiter", "nothing of this"]
    done = subprocess.run(
        [examples_python, "-c", PROGRAM, ROOT / "server/examples", root, *queries],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_index_has_text_files_that_are_not_hidden(indexed: Any) -> None:
    assert indexed["files"] == ["README.md", "limits.py", "web/client.ts"]


def test_chunks_end_where_definitions_do(indexed: Any) -> None:
    chunks = [chunk[1:] for chunk in indexed["chunks"] if chunk[0] == "limits.py"]
    assert chunks == [
        [1, 31, ["Limiter", "rule_0"]],
        [32, 91, ["rule_1", "rule_2"]],
        [92, 151, ["rule_3", "rule_4"]],
    ]


def test_chunks_of_other_languages(indexed: Any) -> None:
    assert ["web/client.ts", 1, 3, ["openSocket"]] in indexed["chunks"]
    assert [chunk[1:] for chunk in indexed["chunks"] if chunk[0] == "README.md"] == [
        [1, 60, []],
        [61, 100, []],
    ]


def test_search_finds_parts_of_names(indexed: Any) -> None:
    assert indexed["found"]["open socket"] == ["web/client.ts"]
    assert indexed["found"]["limiter"][0] == indexed["found"]["rule_4"][0] == "limits.py"
    assert indexed["found"]["nothing of this"] == []


def test_words_are_identifiers_and_their_parts(indexed: Any) -> None:
    assert indexed["words"] == [
        "parsehttpresponse", "parse", "http", "response",
        "max_body_bytes", "max", "body", "bytes",
        "v2", "v", "2",
    ]  # fmt: skip
