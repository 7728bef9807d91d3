"""Linear time of the parser for any cuts. The work is counted, not timed."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from serval.grammar.dialects.longcat import LONGCAT
from serval.tools.cursor import Cursor
from serval_testkit.longcat_text import KC, KO, TC, TE, THINK, VC, VO, call, pair, pieces_of, tool

TOOLS = [tool("f", text={"type": "string"}, data={"type": "object"}, free={}), tool("now")]
OPEN_TEXT, OPEN_DATA = (f"{TC}f\n{KO}{key}{KC}\n{VO}" for key in ("text", "data"))

# Each builds a text of about n characters that a careless parser would read repeatedly.
SHAPES: dict[str, Callable[[int], str]] = {
    "string argument": lambda n: call("f", pair("text", 'x" ' * (n // 3))),
    "object argument": lambda n: call("f", pair("data", '{"a": "' + "x" * n + '"}')),
    "argument of any type": lambda n: call("f", pair("free", "x" * n)),
    "content": lambda n: "word " * (n // 5),
    "marker beginnings": lambda n: "<longcat_tool_" * (n // 14),
    "whitespace": lambda n: " " * n,
    "whitespace after a call": lambda n: call("now") + "\n" * n,
    "whitespace after a value": lambda n: OPEN_TEXT + VC + " " * n,
    "closing value markers in a value": lambda n: OPEN_TEXT + f"{VC} " * (n // 22),
    "closing call markers in a value": lambda n: OPEN_TEXT + f"{TE} " * (n // 21),
    "closing call markers in an object": lambda n: OPEN_DATA + f"{TE} " * (n // 21),
    "calls never closed": lambda n: f"{TC}now\n" * (n // 23),
    "opening markers": lambda n: TC * (n // 19),
    "openers that are prose": lambda n: f"{TC}` x\n" * (n // 23),
    "a name that never ends": lambda n: TC + "n" * n,
    "a key that never ends": lambda n: f"{TC}f\n{KO}" + "k" * n,
    "many keys": lambda n: call("f", *(pair(f"k{number}", "1") for number in range(n // 80))),
    "reasoning": lambda n: THINK + "hm \n" * (n // 4),
    "a JSON block": lambda n: TC + '{"name": "f", "arguments": {"text": "' + "x" * n + f'"}}}}{TE}',
    "a JSON block never closed": lambda n: TC + '{"' + f"{TE} " * (n // 21),
    "broken JSON blocks": lambda n: f'{TC}{{"{TE}' * (n // 41),
    "escaped quotes in JSON blocks": lambda n: f'{TC}{{\\"{TE}' * (n // 42),
    "brackets": lambda n: call("f", pair("data", "[" * n)),
    "quotes in brackets": lambda n: call("f", pair("data", "[" * 200 + '"' + '\\"' * (n // 2))),
    "a Python dict": lambda n: call("f", pair("data", "{'a': '" + "x" * n + "'}")),
}


def work(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Count function calls, and characters that were copied into the buffer."""
    done = 0

    def count_call(*_: Any) -> None:
        nonlocal done
        done += 1

    def counting(original: Any) -> Any:
        def change(cursor: Cursor, piece: str) -> None:
            nonlocal done
            before = cursor.text
            original(cursor, piece)
            done += 0 if cursor.text is before else len(cursor.text)

        return change

    with monkeypatch.context() as patch:
        for name in ("extend", "step_back"):
            patch.setattr(Cursor, name, counting(getattr(Cursor, name)))
        pieces = list(pieces_of(text, size))
        parser = LONGCAT.parser(TOOLS)
        sys.setprofile(count_call)
        try:
            for piece in pieces:
                parser.feed(piece)
            parser.finish("stop")
        finally:
            sys.setprofile(None)
    return done


@pytest.mark.parametrize("size", [0, 1, 50])
@pytest.mark.parametrize("shape", SHAPES)
def test_parser_work_is_linear_in_length_of_text(
    shape: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = (work(SHAPES[shape](n), size, monkeypatch) for n in (1_000, 8_000))
    assert large < 10 * small


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_parser_buffers_little_more_than_last_piece(
    shape: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SHAPES[shape](4_000)
    longest = 0

    def extend(cursor: Cursor, piece: str, original: Any = Cursor.extend) -> None:
        nonlocal longest
        original(cursor, piece)
        longest = max(longest, len(cursor.text) - len(piece))

    monkeypatch.setattr(Cursor, "extend", extend)
    parser = LONGCAT.parser(TOOLS)
    for piece in pieces_of(text, size):
        parser.feed(piece)
    assert longest < 25
