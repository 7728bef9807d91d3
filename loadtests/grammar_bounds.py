"""Cost of bounds in schemas: compiling the grammar as SGLang does, and its slowest masks.

    python loadtests/grammar_bounds.py [--tree BEFORE --tree .] [--case NAME] [--limit-s 60]

Makes the grammar of each case with the gateway of each tree, compiles it with xgrammar's cached compiler in
one thread, and fills the masks of a value that is as long as the bound: those of the first and the last 40
tokens. The vocabulary has LongCat-Flash-Lite's size and is made up, because the model's own is not in this
repository: all bytes, 2,500 runs of punctuation, runs of blanks, 20,000 pieces of Chinese, numbers, and words
of 2 to 12 random letters with English frequencies, half of them after a space. Times are CPU time.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import xgrammar

from serval.errors import ServalError
from serval.grammar.answer_grammar import answer_grammar
from serval.grammar.dialects.longcat import LONGCAT

VOCABULARY_SIZE: Final = 131_072
_STOP: Final = VOCABULARY_SIZE - 1
_MEASURED_TOKENS: Final = 40
_LETTERS: Final = "etaoinshrdlucmfwypvbgkjqxz"
_FREQUENCIES: Final = [
    127,
    91,
    82,
    75,
    70,
    67,
    63,
    61,
    60,
    43,
    40,
    28,
    28,
    24,
    22,
    24,
    20,
    19,
    15,
    10,
    20,
    8,
    2,
    1,
    2,
    1,
]


class Case(NamedTuple):
    """A request, and an answer that its grammar admits."""

    tools: list[dict[str, Any]]
    response_format: dict[str, Any] | None
    answer: str


def word(rng: random.Random) -> str:
    """A random word."""
    return "".join(
        rng.choices(_LETTERS, weights=_FREQUENCIES, k=rng.choice([2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 10, 12]))
    )


def vocabulary() -> list[bytes]:
    """The made-up vocabulary; the last token ends an answer."""
    rng = random.Random(0)
    pieces = {bytes([byte]) for byte in range(256)}
    pieces |= {sign * count for sign in (b" ", b"\n", b"-", b"=") for count in range(2, 33)}
    pieces |= {str(number).encode() for number in range(1000)}

    def add(count: int, piece: Callable[[], str]) -> None:
        size = min(len(pieces) + count, _STOP)
        while len(pieces) < size:
            pieces.add(piece().encode())

    signs = "\"'.,:;!?()[]{}<>/\\-_=+*&^%$#@|~`\n\t "
    add(2_500, lambda: "".join(rng.choices(signs, k=rng.randint(2, 4))))
    add(
        20_000,
        lambda: "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(rng.choice([1, 1, 2, 2, 3, 4]))),
    )
    add(_STOP, lambda: rng.choice(["", " "]) + (word(rng).capitalize() if rng.random() < 0.2 else word(rng)))
    return [*sorted(pieces), b"</s>"]


def text(length: int, *, between: str = " ") -> str:
    """Random words, cut to `length` characters."""
    rng = random.Random(1)
    return between.join(word(rng) for _ in range(length // 3 + 1))[:length]


def json_case(value: dict[str, Any], written: Any, *, properties: int = 1) -> Case:
    """A response format with properties of one schema, and an answer that writes the first of them."""
    schema = {
        "type": "object",
        "properties": {f"p{number}": value for number in range(properties)},
        "required": ["p0"],
        "additionalProperties": False,
    }
    asked = {"name": "answer", "schema": schema, "strict": True}
    return Case(
        [], {"type": "json_schema", "json_schema": asked}, json.dumps({"p0": written}, ensure_ascii=False)
    )


def tools_case(count: int, value: dict[str, Any], written: str) -> Case:
    """Strict tools of one argument each, and a call of the last one."""
    parameters = {
        "type": "object",
        "properties": {"a": value},
        "required": ["a"],
        "additionalProperties": False,
    }
    tools = [
        {"type": "function", "function": {"name": f"tool_{number}", "parameters": parameters, "strict": True}}
        for number in range(count)
    ]
    call = (
        f"<longcat_tool_call>tool_{count - 1}\n<longcat_arg_key>a</longcat_arg_key>\n"
        f"<longcat_arg_value>{written}</longcat_arg_value>\n</longcat_tool_call>"
    )
    return Case(tools, None, call)


def cases() -> dict[str, Case]:
    """All cases by name."""
    letters = text(500, between="")
    groups = {"type": "string", "pattern": "^([a-z]{1,50}-){1,50}$"}
    found = {
        f"maxLength {bound}": json_case({"type": "string", "maxLength": bound}, text(bound))
        for bound in (100, 128, 129, 255, 500, 1000, 2500, 5000, 10_000)
    }
    found |= {
        f"minLength {bound}": json_case({"type": "string", "minLength": bound}, text(bound + 100))
        for bound in (40, 200, 2000)
    }
    return found | {
        "^[a-z]{1,500}$": json_case({"type": "string", "pattern": "^[a-z]{1,500}$"}, letters),
        "^.{4000}$": json_case({"type": "string", "pattern": "^.{4000}$"}, text(4000)),
        "100 times ^([a-z]{1,50}-){1,50}$": json_case(groups, "abc-" * 50, properties=100),
        "128 tools ^[a-z]{1,500}$": tools_case(128, {"type": "string", "pattern": "^[a-z]{1,500}$"}, letters),
        "128 tools maxLength 500": tools_case(128, {"type": "string", "maxLength": 500}, text(500)),
        "maxItems 1000": json_case(
            {"type": "array", "items": {"type": "integer"}, "maxItems": 1000}, [7] * 1000
        ),
        "minItems 500": json_case(
            {"type": "array", "items": {"type": "integer"}, "minItems": 500}, [7] * 500
        ),
        "enum of 5000": json_case({"enum": [f"value {number}" for number in range(5000)]}, "value 4999"),
        "multipleOf 5": json_case({"type": "integer", "multipleOf": 5}, 1234567890),
    }


def token_ids(tokens: list[bytes], answer: str) -> Iterator[int]:
    """The answer in tokens, always the longest that fits."""
    ids = {token: number for number, token in enumerate(tokens[:_STOP])}
    longest = max(map(len, ids))
    rest = answer.encode()
    while rest:
        token = next(rest[:size] for size in range(longest, 0, -1) if rest[:size] in ids)
        yield ids[token]
        rest = rest[len(token) :]


def measure(case: Case) -> str:
    """One cell for each column of the table: make, compile, worst mask and mean mask, in milliseconds."""
    began = time.process_time()
    try:
        tag = answer_grammar(
            LONGCAT,
            case.tools,
            tool_choice="required" if case.tools else "auto",
            parallel_tool_calls=True,
            response_format=case.response_format,
        )
    except ServalError as error:
        return f"{milliseconds(began):.1f} | refused: {error} | |"
    making = milliseconds(began)
    assert tag is not None
    tokens = vocabulary()
    info = xgrammar.TokenizerInfo(
        tokens, xgrammar.VocabType.RAW, vocab_size=VOCABULARY_SIZE, stop_token_ids=[_STOP]
    )
    compiler = xgrammar.GrammarCompiler(info, max_threads=1)  # with its cache, like SGLang's
    began = time.process_time()
    try:
        grammar = compiler.compile_structural_tag(tag)
    except RuntimeError:
        return f"{making:.1f} | fails after {milliseconds(began):.0f} | |"
    compiling = milliseconds(began)
    masks = list(mask_times(grammar, list(token_ids(tokens, case.answer))))
    return f"{making:.1f} | {compiling:.0f} | {max(masks):.1f} | {sum(masks) / len(masks):.2f}"


def mask_times(grammar: xgrammar.CompiledGrammar, ids: list[int]) -> Iterator[float]:
    """Milliseconds for the masks of the first and last tokens."""
    mask = torch.zeros((1, (VOCABULARY_SIZE + 31) // 32), dtype=torch.int32)
    matcher = xgrammar.GrammarMatcher(grammar)
    for number, token in enumerate(ids):
        if not _MEASURED_TOKENS <= number < len(ids) - _MEASURED_TOKENS:
            began = time.process_time()
            matcher.fill_next_token_bitmask(mask)
            yield milliseconds(began)
        assert matcher.accept_token(token), f"token {number} is refused"


def milliseconds(began: float) -> float:
    """CPU time since `began`, in milliseconds."""
    return (time.process_time() - began) * 1e3


def measured_in(tree: Path, name: str, limit_s: float) -> str:
    """The cells of one case with the gateway of `tree`, measured in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "server"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", name]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=limit_s, check=True
        )
    except subprocess.TimeoutExpired:
        return f" | not within {limit_s:.0f} s | |"
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tree", type=Path, action="append", help="checkout to measure (default: this one)")
    parser.add_argument("--case", action="append", help="name of a case (default: all)")
    parser.add_argument("--limit-s", type=float, default=60, help="wall-clock limit of one case and tree")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(cases()[options.one]))
        return
    trees = options.tree or [Path(__file__).resolve().parents[1]]
    print("| case | tree | make, ms | compile, ms | worst mask, ms | mean mask, ms |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name in options.case or cases():
        for tree in trees:
            print(f"| {name} | {tree} | {measured_in(tree.resolve(), name, options.limit_s)} |", flush=True)


if __name__ == "__main__":
    main()
