"""Coverage-guided fuzzing of the tool-call parser, beside the Hypothesis tests that run in CI.

    .venv/bin/python -m uv pip install --target FOLDER atheris==3.0.0
    PYTHONPATH=FOLDER .venv/bin/python loadtests/fuzz_parser.py -max_total_time=600

Atheris is in no lock, because nothing else needs it. For any input the parser must not raise, must give the
same message for the whole text and for pieces of it, and must give arguments that are a JSON object.
"""

import json
import sys
from typing import Any

import atheris

with atheris.instrument_imports(include=["serval.tools"]):
    from serval.grammar.dialects.longcat import LONGCAT
    from serval.tools.message import assemble

WORDS = [
    "<longcat_tool_call>", "</longcat_tool_call>", "<longcat_arg_key>", "</longcat_arg_key>",
    "<longcat_arg_value>", "</longcat_arg_value>", "<longcat_think>", "</longcat_think>",
    "f", "text", "number", "thing", "mixed", '{"name": "f", "arguments": {', "null", "1.50", "{'a': 1}",
]  # fmt: skip
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "f",
            "parameters": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "number": {"type": "number"},
                    "thing": {"type": "object"},
                    "mixed": {"type": ["string", "null", "integer"]},
                },
            },
        },
    }
]


def text_of(data: atheris.FuzzedDataProvider) -> str:
    """Mix tokens of the format with arbitrary text: random bytes hardly ever form a marker."""
    parts = []
    while data.remaining_bytes() and len(parts) < 200:
        choice = data.ConsumeIntInRange(0, len(WORDS) + 4)
        parts.append(WORDS[choice] if choice < len(WORDS) else data.ConsumeUnicode(choice - len(WORDS)))
    return "".join(parts)


def read(pieces: list[str], *, thinking: bool) -> Any:
    parser = LONGCAT.parser(TOOLS, thinking=thinking)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return assemble(events + parser.finish("stop"))


def check(raw: bytes) -> None:
    """Fuzz target: any exception it raises is a finding."""
    data = atheris.FuzzedDataProvider(raw)
    thinking, size = data.ConsumeBool(), data.ConsumeIntInRange(1, 30)
    text = text_of(data)
    whole = read([text], thinking=thinking)
    cut = read([text[start : start + size] for start in range(0, len(text), size)], thinking=thinking)
    if whole != cut:
        raise AssertionError(f"cut every {size} characters it differs: {text!r}")
    for _, arguments in whole.calls:
        if not isinstance(json.loads(arguments), dict):
            raise AssertionError(f"arguments are no object: {text!r}")


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
