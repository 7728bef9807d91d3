"""Index of a repository's text files: chunks by a parser of source code, ranked by BM25.

A file is cut at the boundaries of its syntax tree: neighbouring definitions share a chunk as long as they
fit, and a definition that does not fit is cut at those inside it. Files of other languages are cut by lines.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import bm25s
import tree_sitter_go
import tree_sitter_javascript
import tree_sitter_python
import tree_sitter_rust
import tree_sitter_typescript
from tree_sitter import Language, Node, Parser

MOST_FILE_BYTES = 1 << 20
MOST_LINES = 60
# Reciprocal rank fusion: a hit of rank r counts 1 / (60 + r) in each ranking.
RANK_OFFSET = 60

LANGUAGES = {
    ".py": tree_sitter_python.language,
    ".js": tree_sitter_javascript.language,
    ".mjs": tree_sitter_javascript.language,
    ".ts": tree_sitter_typescript.language_typescript,
    ".tsx": tree_sitter_typescript.language_tsx,
    ".go": tree_sitter_go.language,
    ".rs": tree_sitter_rust.language,
}
# Ends of the types of nodes that define something, in the grammars above.
DEFINITIONS = ("_definition", "_declaration", "_item")
WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+")
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


@dataclass(frozen=True)
class Chunk:
    """Lines `begin` to `end` of a file, counted from 1, and the definitions that begin in them."""

    path: str
    begin: int
    end: int
    names: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Index:
    """Files by path, their chunks, and a ranking of each."""

    files: dict[str, Sequence[Chunk]]
    chunks: Sequence[Chunk]
    of_files: bm25s.BM25
    of_chunks: bm25s.BM25

    def search(self, query: str, count: int) -> list[Chunk]:
        """Return the best chunks. A chunk ranks by itself and by its file, which says what it is about."""
        words = words_of(query)
        files = list(self.files)
        by_file = {files[number]: rank for rank, number in enumerate(_ranking(self.of_files, words))}
        ranked = _ranking(self.of_chunks, words)
        scores = {
            number: 1 / (RANK_OFFSET + rank)
            + 1 / (RANK_OFFSET + by_file.get(self.chunks[number].path, len(files)))
            for rank, number in enumerate(ranked)
        }
        best = sorted(scores, key=lambda number: -scores[number])[:count]
        return [self.chunks[number] for number in best]


def index_of(root: Path) -> Index:
    """Index all text files below `root`. Raises `ValueError` if there are none."""
    files = {
        path.relative_to(root).as_posix(): chunks_of(
            path.relative_to(root).as_posix(), path.read_text(encoding="utf-8", errors="replace")
        )
        for path in text_files(root)
    }
    files = {path: chunks for path, chunks in files.items() if chunks}
    chunks = [chunk for of_file in files.values() for chunk in of_file]
    if not chunks:
        raise ValueError(f"there are no text files below {root}")
    texts = [words_of(" ".join([path, *(chunk.text for chunk in files[path])])) for path in files]
    return Index(
        files,
        chunks,
        _ranked(texts),
        _ranked([words_of(f"{chunk.path} {' '.join(chunk.names)} {chunk.text}") for chunk in chunks]),
    )


def text_files(root: Path) -> Iterator[Path]:
    """Yield files of text, in order of their paths: none that is hidden, linked, large or binary."""
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(root).parts)
        if hidden or path.is_symlink() or not path.resolve().is_relative_to(root) or not path.is_file():
            continue
        if path.stat().st_size <= MOST_FILE_BYTES and b"\0" not in path.read_bytes()[:8192]:
            yield path


def chunks_of(path: str, text: str) -> list[Chunk]:
    """Cut a file into chunks of at most `MOST_LINES` lines, in order and without gaps."""
    lines = text.splitlines()
    language = LANGUAGES.get(Path(path).suffix)
    depths: dict[int, int] = {}
    names: dict[int, str] = {}
    if language is not None:
        tree = Parser(Language(language())).parse(text.encode())
        _add_boundaries(tree.root_node, 0, depths, names)
    chunks = []
    begin = 0
    while begin < len(lines):
        end = _end_of(begin, depths, len(lines))
        inside = tuple(name for line, name in names.items() if begin <= line < end)
        chunks.append(Chunk(path, begin + 1, end, inside, "\n".join(lines[begin:end])))
        begin = end
    return [chunk for chunk in chunks if chunk.text.strip()]


def _add_boundaries(node: Node, depth: int, depths: dict[int, int], names: dict[int, str]) -> None:
    """Add the lines (from 0) at which children begin with their depth, and the names of definitions."""
    for child in node.named_children:
        line = child.start_point[0]
        depths.setdefault(line, depth)
        # A decorator or an export stands around the definition.
        inner = child.child_by_field_name("definition") or child.child_by_field_name("declaration") or child
        name = inner.child_by_field_name("name")
        if inner.type.endswith(DEFINITIONS) and name is not None and name.text is not None:
            names.setdefault(line, name.text.decode(errors="replace"))
        long = child.end_point[0] - line >= MOST_LINES
        body = inner.child_by_field_name("body")
        if body is not None and (long or "class" in inner.type or "impl" in inner.type):
            _add_boundaries(body, depth + 1, depths, names)
        elif long:
            _add_boundaries(child, depth + 1, depths, names)


def _end_of(begin: int, depths: dict[int, int], lines: int) -> int:
    """Return the line to end a chunk before: the last one between definitions that are not inside others."""
    limit = begin + MOST_LINES
    if lines <= limit:
        return lines
    near = [line for line in depths if begin + MOST_LINES // 3 < line <= limit]
    return min(near, key=lambda line: (depths[line], -line), default=limit)


def words_of(text: str) -> list[str]:
    """Return the words of code, in lower case: identifiers, and the parts of those that have several."""
    words: list[str] = []
    for word in WORD.findall(text):
        parts = PART.findall(word)
        words.append(word.lower())
        if len(parts) > 1:
            words += [part.lower() for part in parts]
    return words


def _ranked(texts: list[list[str]]) -> bm25s.BM25:
    ranking = bm25s.BM25()
    ranking.index(texts, show_progress=False)
    return ranking


def _ranking(ranking: bm25s.BM25, words: list[str]) -> list[int]:
    """Return the numbers of the texts that have a word, the best first; of equal ones the earlier."""
    known = [word for word in words if word in ranking.vocab_dict]
    if not known:
        return []
    scores = ranking.get_scores(known)
    return [int(number) for number in (-scores).argsort(kind="stable") if scores[number] > 0]
