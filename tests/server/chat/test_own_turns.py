"""The model's own tokens of turns with calls: kept within bounds, and used where a turn says the same."""

from array import array
from pathlib import Path
from typing import Any

import pytest

from serval.chat import ChatRenderer, load_chat
from serval.chat.own_turns import OwnCall, OwnTurn, OwnTurns
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.model_folder import write_model_folder

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "Edit",
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string"},
                    "times": {"type": "number"},
                    "replace_all": {"type": "boolean", "default": False},
                },
            },
        },
    }
]
TURN = OwnTurn(
    array("I", [1, 2, 3]), "I edit.\n", (OwnCall("call_a", "Edit", '{"path": "x", "times": 1.50}'),)
)


def kept(*turns: OwnTurn, capacity: int = 1 << 20) -> OwnTurns:
    own = OwnTurns(capacity)
    for turn in turns:
        own.put("key", turn)
    return own


def returned(arguments: Any, *, content: Any = "I edit.\n", name: str = "Edit", call: str = "call_a") -> Any:
    function = {"name": name, "arguments": arguments}
    message = {"role": "assistant", "content": content}
    return [
        {"role": "user", "content": "x"},
        message | {"tool_calls": [{"id": call, "function": function}]},
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        '{"path": "x", "times": 1.50}',
        {"times": 1.5, "path": "x"},
        {"replace_all": False, "path": "x", "times": 1.5},
        '{"replace_all":false,"path":"x","times":15e-1}',
    ],
)
def test_own_turns_finds_a_call_whose_arguments_mean_the_same(arguments: Any) -> None:
    found = kept(TURN).find("key", returned(arguments), TOOLS)
    assert {index: list(ids) for index, ids in found.items()} == {1: [1, 2, 3]}


@pytest.mark.parametrize("content", ["I edit.", [{"type": "text", "text": "I edit."}]])
def test_own_turns_ignores_space_around_the_text(content: Any) -> None:
    assert kept(TURN).find("key", returned({"path": "x", "times": 1.5}, content=content), TOOLS)


@pytest.mark.parametrize(
    "changed",
    [
        {"arguments": {"path": "y", "times": 1.5}},
        {"arguments": {"path": "x", "times": 1.5, "replace_all": True}},
        {"arguments": {"path": "x", "times": 1.5, "other": False}},
        {"arguments": {"path": "x"}},
        {"arguments": '{"path": "x", "times": 1.50'},
        {"arguments": "[" * 100_000},
        {"arguments": "[]"},
        {"arguments": None},
        {"content": "I read."},
        {"content": None},
        {"name": "Write"},
        {"call": "call_b"},
    ],
)
def test_own_turns_finds_nothing_for_a_turn_that_says_something_else(changed: dict[str, Any]) -> None:
    given = {"arguments": {"path": "x", "times": 1.5}} | changed
    assert not kept(TURN).find("key", returned(given.pop("arguments"), **given), TOOLS)


def test_own_turns_belong_to_one_caller() -> None:
    assert not kept(TURN).find("other key", returned('{"path": "x", "times": 1.50}'), TOOLS)


def test_own_turns_needs_all_calls_in_their_order() -> None:
    two = OwnTurn(array("I", [1]), "", (OwnCall("a", "f", "{}"), OwnCall("b", "f", "{}")))
    calls = [{"id": name, "function": {"name": "f", "arguments": {}}} for name in "ab"]

    def found(given: list[Any]) -> bool:
        return bool(kept(two).find("key", [{"role": "assistant", "tool_calls": given}], []))

    assert found(calls)
    assert not found(calls[:1])
    assert not found(calls[::-1])


def test_own_turns_forgets_the_oldest_of_a_caller_and_of_all() -> None:
    own = OwnTurns(40_000)

    def put(caller: str, number: int) -> None:
        own.put(caller, OwnTurn(array("I", range(1_000)), "", (OwnCall(f"{caller}{number}", "f", "{}"),)))

    def held(caller: str, number: int) -> bool:
        call = {"id": f"{caller}{number}", "function": {"name": "f", "arguments": {}}}
        return bool(own.find(caller, [{"role": "assistant", "tool_calls": [call]}], []))

    for number in range(3):
        put("a", number)
    # A quarter has room for one.
    assert [held("a", number) for number in range(3)] == [False, False, True]
    for caller in "bcdefghijk":
        put(caller, 0)
        assert own.size_bytes <= 40_000
        assert held("a", 2)  # used, so it is not the oldest
    assert not held("b", 0)
    assert held("k", 0)


def test_own_turns_keeps_nothing_that_is_too_large_and_nothing_at_all_without_memory() -> None:
    large = OwnTurn(array("I", range(1_000)), "", (OwnCall("call_a", "f", "{}"),))
    assert kept(large, capacity=8_000).size_bytes == 0
    assert kept(TURN, capacity=0).size_bytes == 0


@pytest.fixture(scope="module", params=["demo", "small", "swallowing"])
def renderer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ChatRenderer:
    flags = {"lstrip": True, "rstrip": True} if request.param == "swallowing" else None
    folder = write_model_folder(tmp_path_factory.mktemp("model"), token_flags=flags)
    return load_chat(DEMO_CHECKPOINT if request.param == "demo" else folder)


CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "Edit it"},
    {
        "role": "assistant",
        "content": "I edit.\n",
        "tool_calls": [
            {"id": "a", "function": {"name": "Edit", "arguments": {"replace_all": False, "path": "x"}}},
            {"id": "b", "function": {"name": "Edit", "arguments": {"path": "y"}}},
        ],
    },
    {"role": "tool", "tool_call_id": "a", "content": "done"},
    {"role": "tool", "tool_call_id": "b", "content": "done"},
    {"role": "assistant", "content": "Done."},
    {"role": "user", "content": "Thanks"},
]


def test_render_puts_own_tokens_in_place_of_text_and_calls(renderer: ChatRenderer) -> None:
    plain = renderer.render(CONVERSATION, tools=TOOLS).input_ids
    before = renderer.render(CONVERSATION[:1], tools=TOOLS).input_ids
    until = renderer.render(CONVERSATION[:2], tools=TOOLS).input_ids
    # The marker of the next answer, and the token that ends the turn, are no part of it.
    turn = until[len(before) : -2]
    assert plain[: len(before)] == before
    own = renderer.render(CONVERSATION, tools=TOOLS, own_turns={1: array("I", turn)})
    assert own.input_ids == plain
    assert "<longcat_tool_call>Edit" in own.text
    other = renderer.render(CONVERSATION, tools=TOOLS, own_turns={1: array("I", [7, 8])}).input_ids
    assert other == [*before, 7, 8, *plain[len(before) + len(turn) :]]


def test_render_ignores_own_tokens_if_turns_of_the_template_have_another_form(tmp_path: Path) -> None:
    calls_first = (
        "{% for m in messages %}{% if m.role == 'assistant' %}<longcat_assistant>"
        "{% for c in m.tool_calls or [] %}<longcat_tool_call>{{ c.function.name }}</longcat_tool_call>"
        "{% endfor %}{{ m.content }}</longcat_s>"
        "{% else %}<longcat_user>{{ m.content }}{% endif %}{% endfor %}<longcat_assistant>"
    )
    without_end = (
        "{% for m in messages %}{% if m.role == 'assistant' %}<longcat_assistant>{{ m.content }} -- "
        "{% else %}<longcat_user>{{ m.content }}{% endif %}{% endfor %}<longcat_assistant>"
    )
    for number, template in enumerate((calls_first, without_end)):
        renderer = load_chat(write_model_folder(tmp_path / str(number), template=template))
        plain = renderer.render(CONVERSATION).input_ids
        assert renderer.render(CONVERSATION, own_turns={1: array("I", [7])}).input_ids == plain


def test_kept_turn_is_compared_once_in_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of one turn, thousands in a request, would have its arguments decoded each time."""
    decoded = []
    monkeypatch.setattr(
        "serval.chat.own_turns.same_json", lambda left, right: decoded.append(left) or left == right
    )
    messages = returned('{"times": 1.5, "path": "x"}') * 50
    assert list(kept(TURN).find("key", messages, TOOLS)) == [1]
    assert len(decoded) == 1
