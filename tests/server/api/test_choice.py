"""One choice of an answer, from the engine's deltas to OpenAI's form, whole and streamed."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from serval.api.chat import ChoiceStream
from serval.api.choice import ChoiceAssembler, count_tool_calls
from serval.chat.own_turns import OwnTurn
from serval.chat.tokenizer import load_tokenizer
from serval.engine.protocol import EngineFinish, GenerationDelta, TokenLogprob
from serval.grammar.dialect import Dialect
from serval.grammar.dialects.longcat import LONGCAT
from serval.grammar.dialects.longcat_json import LONGCAT_JSON
from serval.telemetry.record import RequestRecord
from serval.wire.chat_response import AnsweredChoice, ChunkEncoder, choice_object
from serval.wire.legacy_functions import LegacyChunkEncoder, legacy_choice_object
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.longcat_text import KC, KO, TC, TE, THINK, VC, VO, call, pair, tool

TOKENIZER, FULL = load_tokenizer(DEMO_CHECKPOINT)
TOOLS = [
    tool("send_note", text={"type": "string"}),
    tool("get_weather", city={"type": "string"}, days={"type": "integer"}),
]
PARIS = call("get_weather", pair("city", "Paris"), pair("days", "3"))


def ids_of(text: str) -> list[int]:
    """Return the ids of a text in which every marker is a control token."""
    return list(FULL.encode(text, add_special_tokens=False).ids)


def quoted_ids(text: str) -> list[int]:
    return list(TOKENIZER.encode_text(text))


def deltas(
    ids: Sequence[int],
    *,
    finish: EngineFinish = "stop",
    stop: str | None = None,
    tokens: int = 1,
    logprobs: bool = False,
) -> list[GenerationDelta]:
    """Return deltas of so many tokens each, as the engine sends them.

    Incomplete characters, and what may become the stop string, come late. The answer ends at a stop string.
    """
    if stop is not None:
        ids = ids[: next(end for end in range(len(ids) + 1) if stop in text_of(ids[:end]))]
    made: list[GenerationDelta] = []
    sent = ""
    edges = [*range(0, len(ids), tokens), len(ids)]
    for begin, end in itertools.pairwise(edges):
        is_last = end == len(ids)
        text = text_of(ids[:end])
        if not is_last:
            text = text.removesuffix("\ufffd")
        elif stop is not None:
            text = text[: text.index(stop)]
        if stop is not None:
            held = next((n for n in range(len(stop), 0, -1) if text.endswith(stop[:n])), 0)
            text = text if is_last else text[: len(text) - held]
        made.append(
            GenerationDelta(
                text=text[len(sent) :],
                prompt_tokens=1,
                completion_tokens=end,
                cached_tokens=0,
                finish=finish if is_last else None,
                stop_string=stop if is_last else None,
                token_ids=list(ids[begin:end]),
                logprobs=tuple(map(logprob, ids[begin:end])) if logprobs else (),
            )
        )
        sent = max(sent, text, key=len)
    return made


def text_of(ids: Sequence[int]) -> str:
    return str(FULL.decode(list(ids), skip_special_tokens=False))


def logprob(token_id: int) -> TokenLogprob:
    return TokenLogprob(token_id=token_id, text=text_of([token_id]), logprob=-1)


def assembler(
    *,
    dialect: Dialect = LONGCAT,
    tools: Any = TOOLS,
    by_ids: bool = True,
    parallel: bool = True,
    logprobs: bool = False,
) -> ChoiceAssembler:
    return ChoiceAssembler(
        0,
        dialect.parser(tools),
        TOKENIZER.token_bytes,
        markers=dialect.reply.markers(calls=bool(tools)) if by_ids else None,
        parallel_tool_calls=parallel,
        logprobs=logprobs,
    )


def answer(given: Sequence[GenerationDelta], **options: Any) -> AnsweredChoice:
    """Return the choice, assembled whole; its stream must say the same."""
    whole = assembler(**options)
    for delta in given:
        whole.add(delta)
    assert streamed(given, **options) == plain(whole.answer())
    return whole.answer()


def plain(choice: AnsweredChoice) -> tuple[str, str, list[tuple[str, str]], str]:
    calls = [(each.name, each.arguments) for each in choice.tool_calls]
    return choice.content, choice.reasoning, calls, choice.finish_reason


def chunks_of(given: Sequence[GenerationDelta], encoder: ChunkEncoder, **options: Any) -> list[Any]:
    stream = ChoiceStream(assembler(**options), encoder)
    raw = b"".join(stream.add(delta) for delta in given)
    return [json.loads(event.removeprefix(b"data: "))["choices"][0] for event in raw.split(b"\n\n") if event]


def streamed(given: Sequence[GenerationDelta], **options: Any) -> tuple[str, str, list[tuple[str, str]], str]:
    chunks = chunks_of(given, ChunkEncoder("x", created=0, model="m", include_usage=False), **options)
    parts = [chunk["delta"] for chunk in chunks]
    calls: list[list[str]] = []
    for piece in (piece for part in parts for piece in part.get("tool_calls", ())):
        if "id" in piece:
            calls.append([piece["function"]["name"], ""])
        calls[piece["index"]][1] += piece["function"]["arguments"]
    return (
        "".join(part.get("content") or "" for part in parts),
        "".join(part.get("reasoning_content", "") for part in parts),
        [(name, arguments) for name, arguments in calls],
        chunks[-1]["finish_reason"],
    )


NOTE = f"{TC}send_note\n{KO}text{KC}\n{VO}rm -rf /srv/cache{VC}\n{TE}\n"
JSON_NOTE = f'{TC}{{"name": "send_note", "arguments": {{"text": "rm -rf /srv/cache"}}}}{TE}'
# Text, stop string, and the calls that are left; all but whole calls are cut.
STOPS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "in a value": (NOTE, "srv", [("send_note", '{"text": "rm -rf /')]),
    "at the start of a value": (NOTE, "rm", [("send_note", '{"text": "')]),
    "in an argument's name": (PARIS, "day", [("get_weather", '{"city": "Paris"')]),
    "in the first argument's name": (PARIS, "cit", [("get_weather", "{")]),
    "at a value of another type": (PARIS, "3", [("get_weather", '{"city": "Paris"')]),
    "after the tool's name": (PARIS, "\n", []),
    "in the tool's name": (PARIS, "weather", []),
    "in the closing marker": (NOTE, "/longcat_tool", [("send_note", '{"text": "rm -rf /srv/cache"')]),
    "at a value's closing marker": (NOTE, VC, [("send_note", '{"text": "rm -rf /srv/cache')]),
    "in a value's opening marker": (NOTE, "arg_value", [("send_note", "{")]),
    "in the second call": (PARIS + NOTE, "srv", [WEATHER := ("get_weather", '{"city": "Paris", "days": 3}'),
                                                ("send_note", '{"text": "rm -rf /')]),
    "after the second name": (f"{TC}get_weather{TE}{NOTE}", "\n", [("get_weather", "{}")]),
    "after a marker that is data": (
        f"{TC}send_note\n{KO}text{KC}\n{VO}a{TE}srv{VC}\n{TE}", "srv", [("send_note", '{"text": "a')]
    ),
    "in a JSON call": (JSON_NOTE, "srv", []),
    "in a JSON call's name": (JSON_NOTE, "note", []),
}  # fmt: skip


@pytest.mark.parametrize("by_ids", [True, False], ids=["by ids", "by text"])
@pytest.mark.parametrize("tokens", [1, 3, 100])
@pytest.mark.parametrize("case", STOPS)
def test_choice_cut_by_stop_string_holds_no_call_that_can_be_executed(
    case: str, tokens: int, by_ids: bool
) -> None:
    """Tried: every place of a call, both forms, the second call, one delta and many, whole and streamed."""
    text, stop, calls = STOPS[case]
    got = answer(deltas(ids_of(f"Well. {text}"), stop=stop, tokens=tokens), by_ids=by_ids)
    assert [(each.name, each.arguments) for each in got.tool_calls] == calls
    assert got.finish_reason == "stop"
    assert got.content == "Well. "
    for each in got.tool_calls:
        assert is_json(each.arguments) == (each.arguments in ("{}", WEATHER[1]))


@pytest.mark.parametrize("case", STOPS)
def test_choice_cut_by_length_is_cut_in_the_same_way(case: str) -> None:
    text, stop, calls = STOPS[case]
    ids = ids_of(text)
    place = next(n for n in range(len(ids)) if stop in text_of(ids[: n + 1]))
    got = answer(deltas(ids[:place], finish="length", tokens=2))
    assert got.finish_reason == "length"
    complete = [each for each in got.tool_calls if is_json(each.arguments)]
    assert [(each.name, each.arguments) for each in complete] == [each for each in calls if is_json(each[1])]


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def test_choice_with_whole_calls_before_stop_string_may_be_executed() -> None:
    for text, stop in ((PARIS, "\n\n"), (f"{PARIS}done. END", "END"), (JSON_NOTE + " END", "END")):
        got = answer(deltas(ids_of(f"{text}\n\n"), stop=stop))
        assert (len(got.tool_calls), got.finish_reason) == (1, "tool_calls")


def test_choice_cut_by_stop_string_in_json_dialect_reports_no_call() -> None:
    got = answer(deltas(ids_of(JSON_NOTE), stop="srv"), dialect=LONGCAT_JSON)
    assert (got.tool_calls, got.content, got.finish_reason) == ([], "", "stop")


def test_choice_cut_by_stop_string_in_reasoning_is_a_stop() -> None:
    for text in (f"{THINK}I could write srv{NOTE}", f"{THINK}srv"):
        got = answer(deltas(ids_of(text), stop="srv"))
        assert (got.tool_calls, got.finish_reason) == ([], "stop")


def test_choice_cut_inside_opening_marker_shows_no_marker() -> None:
    got = answer(deltas(ids_of(f"Well.{NOTE}"), stop="longcat"))
    assert (got.content, got.tool_calls, got.finish_reason) == ("Well.", [], "stop")


def test_choice_without_parallel_calls_ignores_that_a_later_one_is_cut() -> None:
    got = answer(deltas(ids_of(PARIS + NOTE), stop="srv"), parallel=False)
    assert plain(got)[2:] == ([WEATHER], "tool_calls")
    got = answer(deltas(ids_of(NOTE + PARIS), stop="srv"), parallel=False)
    assert plain(got)[2:] == ([("send_note", '{"text": "rm -rf /')], "stop")


def test_choice_in_legacy_form_cut_by_stop_string_is_a_stop() -> None:
    given = deltas(ids_of(NOTE), stop="srv")
    whole = legacy_choice_object(answer(given, parallel=False))
    assert whole["finish_reason"] == "stop"
    assert whole["message"]["function_call"] == {"name": "send_note", "arguments": '{"text": "rm -rf /'}
    chunks = chunks_of(given, LegacyChunkEncoder("x", created=0, model="m", include_usage=False))
    assert chunks[-1]["finish_reason"] == "stop"


def test_choice_counts_cut_call_as_truncated() -> None:
    for finish, stop in (("stop", "srv"), ("length", None)):
        record = RequestRecord(request_id="x", method="POST", route="/")
        ids = ids_of(PARIS + NOTE)
        count_tool_calls(answer(deltas(ids if stop else ids[:-4], finish=finish, stop=stop)), record)
        counts = record.tool_calls_complete, record.tool_calls_truncated, record.tool_calls_invalid
        assert counts == (1, 1, 0)


@pytest.mark.parametrize("name", ["Read", "view", "default_api.View"])
def test_choice_passes_on_call_of_undeclared_tool(name: str) -> None:
    """Tried: another tool, another case, a namespace; alone, beside text, beside a known call."""
    block = call(name, pair("path", "a.py"), pair("line", "3"))
    unknown = (name, '{"path": "a.py", "line": 3}')
    for text, content, calls in (
        (block, "", [unknown]),
        (f"Let me look.{block}", "Let me look.", [unknown]),
        (block + PARIS, "", [unknown, WEATHER]),
        (PARIS + block, "", [WEATHER, unknown]),
    ):
        got = answer(deltas(ids_of(text), tokens=2))
        assert plain(got) == (content, "", calls, "tool_calls")


@pytest.mark.parametrize("tokens", [1, 2, 5, 100])
def test_choice_tells_calls_by_ids_from_their_text(tokens: int) -> None:
    quoted = f"The log says: {NOTE}"
    got = answer(deltas(quoted_ids(quoted), tokens=tokens))
    assert plain(got) == (quoted, "", [], "stop")
    got = answer(deltas([*quoted_ids(quoted), *ids_of(PARIS)], tokens=tokens))
    assert plain(got) == (quoted, "", [WEATHER], "tool_calls")
    data = [*ids_of(f"{TC}send_note\n{KO}text{KC}\n{VO}"), *quoted_ids(NOTE), *ids_of(f"{VC}\n{TE}\n")]
    got = answer(deltas(data, tokens=tokens))
    assert plain(got) == ("", "", [("send_note", json.dumps({"text": NOTE}))], "tool_calls")
    got = answer(deltas(quoted_ids(f"{THINK}hm"), tokens=tokens), tools=[])
    assert plain(got) == (f"{THINK}hm", "", [], "stop")


def test_choice_under_grammar_takes_text_of_calls_for_calls() -> None:
    got = answer(deltas(quoted_ids(PARIS)), by_ids=False)
    assert plain(got) == ("", "", [WEATHER], "tool_calls")


def test_choice_quoting_call_cut_by_stop_string_is_text() -> None:
    got = answer(deltas(quoted_ids(f"The log says: {NOTE}"), stop="srv"))
    assert plain(got) == (f"The log says: {NOTE.partition('srv')[0]}", "", [], "stop")


@pytest.mark.parametrize("tokens", [1, 2, 100])
def test_choice_cut_inside_character_ends_before_it(tokens: int) -> None:
    cases = (("你好鑫", 1, "你好"), ("你好鑫", 2, "你好"), ("a😀", 3, "a"), ("\ufffd", 0, "\ufffd"))
    for text, cut, whole in cases:
        ids = quoted_ids(text)
        got = answer(deltas(ids[: len(ids) - cut], finish="length", tokens=tokens))
        assert (got.content, got.finish_reason) == (whole, "length")
    value = ids_of(f"{TC}send_note\n{KO}text{KC}\n{VO}你鑫")[:-1]
    got = answer(deltas(value, finish="length", tokens=tokens))
    assert plain(got)[2] == [("send_note", '{"text": "你')]


@pytest.mark.parametrize("text", ["你好！我是 Serval 演示模型。", "a 😀鑫", "\ufffd", "naïve"])
@pytest.mark.parametrize("tokens", [1, 100])
def test_choice_logprobs_hold_the_bytes_of_the_text(text: str, tokens: int) -> None:
    given = deltas(quoted_ids(text), tokens=tokens, logprobs=True)
    whole = choice_object(answer(given, logprobs=True))["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in whole) == text.encode()
    for entry in whole:
        written = bytes(entry["bytes"])
        partial = "bytes:" + "".join(f"\\x{byte:02x}" for byte in written)
        assert entry["token"] in (written.decode(errors="ignore"), partial)
        assert ("\ufffd" in entry["token"]) == (text == "\ufffd" and written == text.encode())
    encoder = ChunkEncoder("x", created=0, model="m", include_usage=False)
    chunks = chunks_of(given, encoder, logprobs=True)
    in_chunks = [each for chunk in chunks if chunk["logprobs"] for each in chunk["logprobs"]["content"]]
    assert in_chunks == whole


def test_choice_logprobs_end_before_stop_string_of_byte_tokens() -> None:
    given = deltas(quoted_ids("你好鑫!"), stop="鑫", tokens=100, logprobs=True)
    content = choice_object(answer(given, logprobs=True))["logprobs"]["content"]
    assert [entry["token"] for entry in content] == ["你", "好"]


def own_turn(text: str, *, parallel: bool = True, **options: Any) -> OwnTurn | None:
    assembler = ChoiceAssembler(
        0,
        LONGCAT.parser(TOOLS),
        TOKENIZER.token_bytes,
        markers=LONGCAT.reply.markers(calls=True),
        parallel_tool_calls=parallel,
        logprobs=False,
        kept_markers=LONGCAT.reply.markers(calls=True),
    )
    known = options.pop("known", True)
    for delta in deltas(ids_of(text), **options):
        assembler.add(delta if known else replace(delta, token_ids=None))
    return assembler.own_turn()


def test_choice_keeps_the_tokens_of_a_whole_turn_with_calls() -> None:
    turn = own_turn(f"I look.\n{PARIS}")
    assert turn is not None
    assert list(turn.ids) == ids_of(f"I look.\n{PARIS}")
    assert turn.content == "I look.\n"
    (kept,) = turn.calls
    assert (kept.name, json.loads(kept.arguments)) == ("get_weather", {"city": "Paris", "days": 3})


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("Only text.", {}),
        (f"{THINK}I think.</longcat_think>{PARIS}", {}),
        (f"{PARIS}{PARIS}", {"parallel": False}),
        (PARIS[:-40], {"finish": "length"}),
        (PARIS, {"finish": "length"}),
        (PARIS, {"known": False}),
    ],
    ids=["no call", "reasoning", "a call that is dropped", "cut", "cut behind the call", "tokens unknown"],
)
def test_choice_keeps_no_tokens_of_another_turn(text: str, options: dict[str, Any]) -> None:
    assert own_turn(text, **options) is None
