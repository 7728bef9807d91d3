"""Cost of parsing one streamed token: Serval's tool-call parser beside SGLang's for GLM, in one process.

    python loadtests/parser_cost.py [--repeats 7]

GLM-4.x writes calls in the same form with other tag names. Both parsers read the same text with their own
tags, cut into the same pieces (words and tags, roughly tokens). The best of the repeats counts, because the
machine may be busy.
"""

import argparse
import re
import statistics
import time
from collections.abc import Callable
from typing import Final

from sglang.srt.entrypoints.openai.protocol import Function, Tool
from sglang.srt.function_call.base_format_detector import BaseFormatDetector
from sglang.srt.function_call.glm4_moe_detector import Glm4MoeDetector
from sglang.srt.function_call.ling3_detector import Ling3Detector

from serval.grammar.dialects.longcat import LONGCAT

_PARAMETERS: Final = {
    "type": "object",
    "properties": {
        "path": {"type": "string"},
        "content": {"type": "string"},
        "line": {"type": "integer"},
        "options": {"type": "object"},
    },
}
_FUNCTION: Final = Function(name="write_file", description="Write a file", parameters=_PARAMETERS)
_CODE: Final = (
    'def total(numbers):\n    """Sum of `numbers`."""\n    return sum(n for n in numbers if n > 0)\n\n'
)
_PROSE: Final = (
    "The tests fail because the helper drops the last line; I will rewrite it and run them again. "
)
_PIECE: Final = re.compile(r"</?[a-z_]+>|\s*\w+|\s*[^\w\s]|\s+")
_TAGS: Final = ("tool_call", "arg_key", "arg_value")


def call(content: str) -> str:
    """One call in GLM's tags, with a string, an integer and an object among its arguments."""
    arguments = {"path": "src/total.py", "line": "17", "options": '{"mode": [6, 4, 4]}', "content": content}
    pairs = "".join(
        f"<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n" for key, value in arguments.items()
    )
    return f"<tool_call>write_file\n{pairs}</tool_call>\n"


TEXTS: Final = {
    "prose": _PROSE * 60,
    "one long string": call(_CODE * 25),
    "many short calls": (_PROSE + call("x")) * 12,
}


def in_longcat_tags(text: str) -> str:
    """Replace GLM's tags in `text` with LongCat's."""
    for tag in _TAGS:
        text = text.replace(f"<{tag}>", f"<longcat_{tag}>").replace(f"</{tag}>", f"</longcat_{tag}>")
    return text


def read_with_serval(pieces: list[str]) -> int:
    parser = LONGCAT.parser([{"type": "function", "function": _FUNCTION.model_dump()}])
    events = sum(len(parser.feed(piece)) for piece in pieces)
    return events + len(parser.finish("stop"))


def read_with_sglang(make: Callable[[], BaseFormatDetector], pieces: list[str]) -> int:
    detector = make()
    tools = [Tool(type="function", function=_FUNCTION)]
    events = 0
    for piece in pieces:
        result = detector.parse_streaming_increment(piece, tools)
        events += bool(result.normal_text) + len(result.calls)
    result = detector.finish(tools)
    return events + bool(result.normal_text) + len(result.calls)


def microseconds_per_piece(read: Callable[[list[str]], int], pieces: list[str], repeats: int) -> float:
    """Least CPU time of `repeats` readings, in microseconds per piece."""
    best = min(_cpu_time_s(read, pieces) for _ in range(repeats))
    return best / len(pieces) * 1e6


def _cpu_time_s(read: Callable[[list[str]], int], pieces: list[str]) -> float:
    start = time.process_time()
    read(pieces)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    rivals: dict[str, Callable[[list[str]], int]] = {
        detector.__name__: lambda pieces, make=detector: read_with_sglang(make, pieces)
        for detector in (Glm4MoeDetector, Ling3Detector)
    }
    print("us of CPU per streamed piece".ljust(30), "pieces".rjust(7), "serval".rjust(8), end="")
    print("".join(name.rjust(18) + "ratio".rjust(7) for name in rivals))
    costs = []
    for name, text in TEXTS.items():
        pieces = _PIECE.findall(text)
        ours = microseconds_per_piece(read_with_serval, _PIECE.findall(in_longcat_tags(text)), repeats)
        costs.append(ours)
        print(name.ljust(30), f"{len(pieces):7}", f"{ours:8.2f}", end="")
        for read in rivals.values():
            theirs = microseconds_per_piece(read, pieces, repeats)
            print(f"{theirs:18.2f}{theirs / ours:7.1f}", end="")
        print()
    print(f"mean of serval: {statistics.mean(costs):.2f} us")


if __name__ == "__main__":
    main()
