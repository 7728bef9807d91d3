"""Cost of constraining an answer to a schema: building the grammar, compiling it, and masking each token.

    python loadtests/grammar_cost.py [--repeats 5]

The gateway builds the grammar once a request; SGLang compiles it once and caches it. Compiling and masking
depend on the size of the vocabulary. The vocabulary here has LongCat-Flash-Lite's size and random pieces of
text, because the model's own is not in this repository. The best of the repeats counts, because the machine
may be busy.
"""

import argparse
import random
import time
from collections.abc import Callable
from typing import Any, Final

import torch
import xgrammar

from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.dialects.longcat import LONGCAT

VOCABULARY_SIZE: Final = 131_072
_STOP: Final = VOCABULARY_SIZE - 1
_WEATHER: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def nested(depth: int) -> dict[str, Any]:
    """Schema of an object with scalars and an object of the same kind, `depth` levels deep."""
    properties: dict[str, Any] = {
        "name": {"type": "string"},
        "kind": {"enum": ["a", "b", "c", None]},
        "at": {"type": "string", "format": "date-time"},
        "code": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{3,8}$"},
        "size": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 100}, {"type": "null"}]},
    }
    if depth:
        properties["children"] = {"type": "array", "items": nested(depth - 1)}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": True}}


CASES: Final = {
    "one tool of two arguments": [tool("get_weather", _WEATHER)],
    "20 such tools": [tool(f"tool_{number}", _WEATHER) for number in range(20)],
    "one tool, nested 3 deep": [tool("deep", nested(3))],
    "20 tools, nested 3 deep": [tool(f"deep_{number}", nested(3)) for number in range(20)],
    "one of 2000 values": [
        tool("pick", {"type": "object", "properties": {"v": {"enum": [f"value {n}" for n in range(2000)]}}})
    ],
}


def grammar_of(tools: list[dict[str, Any]]) -> str:
    text = answer_grammar(LONGCAT, tools, tool_choice="required", parallel_tool_calls=True)
    assert text is not None
    return text


def compiler() -> xgrammar.GrammarCompiler:
    """Single-threaded compiler without a cache, for a vocabulary of bytes and random words."""
    rng = random.Random(0)
    letters = 'etaoinshrdlucmfwypvbgkjqxz    \n"<>{}[]:,._-0123456789éß北京'
    pieces = {bytes([byte]) for byte in range(256)}
    while len(pieces) < _STOP:
        pieces.add("".join(rng.choices(letters, k=rng.randint(2, 9))).encode())
    vocabulary = [*sorted(pieces), b"</s>"]
    info = xgrammar.TokenizerInfo(
        vocabulary, xgrammar.VocabType.RAW, vocab_size=VOCABULARY_SIZE, stop_token_ids=[_STOP]
    )
    return xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Least CPU time of `repeats` calls, in milliseconds."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best * 1e3


def mask_microseconds(grammar: xgrammar.CompiledGrammar, repeats: int) -> float:
    """Cost of the masks of a short tool call, per token."""
    mask = torch.zeros((1, (VOCABULARY_SIZE + 31) // 32), dtype=torch.int32)
    steps = 40

    def walk() -> None:
        matcher = xgrammar.GrammarMatcher(grammar)
        for _ in range(steps):
            matcher.fill_next_token_bitmask(mask)
            allowed = int(torch.nonzero(mask[0])[0, 0])
            word = int(mask[0, allowed]) & 0xFFFFFFFF
            matcher.accept_token(allowed * 32 + (word & -word).bit_length() - 1)

    return milliseconds(walk, repeats) / steps * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    compile_ = compiler().compile_structural_tag
    print(f"{'':28}{'make ms':>9}{'compile ms':>12}{'kB':>8}{'us a token':>12}")
    for name, tools in CASES.items():
        text = grammar_of(tools)
        making = milliseconds(lambda tools=tools: grammar_of(tools), repeats)  # type: ignore[misc]
        compiling = milliseconds(lambda text=text: compile_(text), repeats)  # type: ignore[misc]
        grammar = compile_(text)
        size = grammar.memory_size_bytes / 1e3
        print(
            f"{name:28}{making:9.2f}{compiling:12.1f}{size:8.0f}{mask_microseconds(grammar, repeats):12.1f}"
        )


if __name__ == "__main__":
    main()
