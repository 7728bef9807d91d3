"""Sealed turns of the Responses API: conversations that go on from their token ids on any replica."""

import itertools
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from serval.chat.tokenizer import load_tokenizer
from serval_testkit.gateway import DEMO_CHECKPOINT, MODEL, RunningGateway, running_gateway
from serval_testkit.stand_in_engine import STOP

PATH = "/v1/responses"
SECRET = "a secret of at least 32 characters"
INCLUDE = ["reasoning.encrypted_content"]
TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "read",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
    },
    {"type": "custom", "name": "apply_patch"},
]
# One piece, because the tokens of a text are not those of its pieces.
TEXT = ["I read it <longcat_user>, ä 日本.\n"]


def call(name: str, key: str, value: str) -> list[str]:
    return [
        "<longcat_tool_call>",
        f"{name}\n",
        "<longcat_arg_key>",
        key,
        "</longcat_arg_key>",
        "\n",
        "<longcat_arg_value>",
        value,
        "</longcat_arg_value>",
        "\n",
        "</longcat_tool_call>",
        "\n",
    ]


CALLS = [*TEXT, *call("read", "path", "a.py"), *call("apply_patch", "input", "*** Begin Patch\n+ä\n")]


def tokens(pieces: list[str]) -> list[list[int]]:
    """Return the tokens of each piece; the last one ends the turn. Markers in the text are only text."""
    plain, full = load_tokenizer(DEMO_CHECKPOINT)
    ids: list[list[int]] = [
        full.encode(piece, add_special_tokens=False).ids
        if re.fullmatch("</?longcat_[a-z_]+>", piece)
        else list(plain.encode_text(piece))
        for piece in pieces
    ]
    ids[-1].append(STOP["matched"])
    return ids


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def body(items: list[Any], **fields: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "input": items,
        "instructions": "Be brief.",
        "tools": TOOLS,
        "include": INCLUDE,
        "store": False,
        **fields,
    }


async def answer(gateway: RunningGateway, items: list[Any], pieces: list[str], **fields: Any) -> list[Any]:
    """Return the items of the model's answer `pieces`, of a streamed answer those of its events."""
    gateway.engine.will_say(*pieces, ids=tokens(pieces))
    response = await gateway.post(body(items, **fields), path=PATH)
    text = await response.text()
    assert response.status == 200, text
    if not fields.get("stream"):
        return list(json.loads(text)["output"])
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert events[-1]["response"]["output"] == done
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return done


async def error(gateway: RunningGateway, items: list[Any], **fields: Any) -> tuple[int, str, str]:
    response = await gateway.post(body(items, **fields), path=PATH)
    found = (await response.json())["error"]
    return response.status, found["code"], found["param"]


def prompt(gateway: RunningGateway, index: int = -1) -> list[int]:
    return list(gateway.engine.requests[index]["input_ids"])


def is_sealed(item: dict[str, Any]) -> bool:
    return item["type"] == "reasoning" and bool(item["encrypted_content"])


def as_sent_back(items: list[Any]) -> list[Any]:
    """Return items as Codex sends them back: without ids and status."""
    return [{key: item[key] for key in item if key not in ("id", "status")} for item in items]


def results(items: list[Any]) -> list[Any]:
    """Return the results of the calls, the last one first."""
    kinds = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
    return [
        {"type": kinds[item["type"]], "call_id": item["call_id"], "output": f"result of {item['type']}"}
        for item in reversed(items)
        if item["type"] in kinds
    ]


@pytest.fixture
async def replicas() -> AsyncIterator[tuple[RunningGateway, RunningGateway]]:
    async with AsyncExitStack() as stack:
        first, second = [
            await stack.enter_async_context(running_gateway(seal_secret=SECRET, own_turns_bytes=0))
            for _ in range(2)
        ]
        yield first, second


Replicas = tuple[RunningGateway, RunningGateway]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pieces", [TEXT, CALLS])
async def test_any_replica_continues_a_sealed_turn_with_the_tokens_of_the_whole_conversation(
    replicas: Replicas, pieces: list[str], stream: bool
) -> None:
    first, second = replicas
    given = [user("Hello <longcat_s>")]
    output = await answer(first, given, pieces, stream=stream)
    assert [is_sealed(item) for item in output] == [False] * (len(output) - 1) + [True]
    new = [*results(output), user("Go on")]
    await answer(second, [output[-1], *new], TEXT)
    await answer(second, [*given, *as_sent_back(output[:-1]), *new], TEXT)
    sealed, rendered = prompt(second, 0), prompt(second, 1)
    assert sealed == rendered
    written = [*prompt(first), *itertools.chain(*tokens(pieces))]
    assert sealed[: len(written)] == written


async def test_sealed_turn_beside_its_history_is_used_in_place_of_it(replicas: Replicas) -> None:
    # In shorter tokens than those of the rendered text, so that the prompts differ.
    pieces = [piece for text in TEXT for piece in re.findall("(?s).{1,2}", text)]
    first, second = replicas
    items: list[Any] = [user("Hello")]
    for turn in range(3):
        before = prompt(second) if turn else []
        output = await answer(second, items, pieces, stream=True)
        if turn:
            written = [*before, *itertools.chain(*tokens(pieces))]
            assert prompt(second)[: len(written)] == written
        items += [*as_sent_back(output), user(f"Go on {turn}")]
    await answer(first, [item for item in items if item["type"] != "reasoning"], TEXT)
    await answer(first, items, TEXT)
    rendered, sealed = prompt(first, 0), prompt(first, 1)
    assert len(sealed) > len(rendered)
    last = next(index for index in range(len(items) - 1, 0, -1) if items[index]["type"] == "reasoning")
    await answer(first, items[last:], TEXT)
    assert prompt(first) == sealed


async def test_sealed_turn_is_ignored_beside_another_history(replicas: Replicas) -> None:
    gateway, _ = replicas
    given = [user("Hello")]
    output = as_sent_back(await answer(gateway, given, CALLS))
    new = results(output)
    changed = json.loads(json.dumps(output[1]).replace("a.py", "b.py"))
    conversations = [
        [user("Hallo"), *output, *new],
        [*given, output[0], changed, *output[2:], *new],
        [*given, user("More"), *output, *new],
        # Items of the model behind the sealed one are of the same turn.
        [*given, *output, output[0], *new],
    ]
    for items in conversations:
        await answer(gateway, items, TEXT)
        await answer(gateway, [item for item in items if item["type"] != "reasoning"], TEXT)
        assert prompt(gateway, -2) == prompt(gateway, -1)
    items = [*given, *output, *new]
    for fields in ({"instructions": "Be long."}, {"tools": [*TOOLS, {"type": "custom", "name": "more"}]}):
        await answer(gateway, items, TEXT, **fields)
        await answer(gateway, [item for item in items if item["type"] != "reasoning"], TEXT, **fields)
        assert prompt(gateway, -2) == prompt(gateway, -1)


async def test_history_may_begin_with_a_sealed_turn_and_hold_a_newer_one(replicas: Replicas) -> None:
    gateway, _ = replicas
    one = await answer(gateway, [user("One")], CALLS)
    start = [one[-1], *results(one)]
    two = await answer(gateway, start, TEXT)
    whole = [user("One"), *one[:-1], *results(one), *two[:-1], user("Three")]
    await answer(gateway, whole, TEXT)
    await answer(gateway, [*start, *as_sent_back(two), user("Three")], TEXT)
    assert prompt(gateway) == prompt(gateway, -2)
    # The newer one does not fit, so the history goes on from the older one.
    await answer(gateway, [*start, user("Two"), *as_sent_back(two), user("Three")], TEXT)
    await answer(gateway, [*start, user("Two"), *as_sent_back(two[:-1]), user("Three")], TEXT)
    assert prompt(gateway, -2) == prompt(gateway, -1) != prompt(gateway, -3)


async def test_sealed_turn_without_history_needs_the_same_declarations(replicas: Replicas) -> None:
    gateway, _ = replicas
    output = await answer(gateway, [user("Hello")], TEXT)
    new = [output[-1], user("Go on")]
    place = (400, "encrypted_content_mismatch", "input[0].encrypted_content")
    assert await error(gateway, new, instructions="Be long.") == place
    assert await error(gateway, new, tools=TOOLS[:1]) == place
    assert await error(gateway, new, tool_choice="none") == place
    assert await error(gateway, [output[-1], *output[:-1], user("Go on")]) == place
    assert len(gateway.engine.requests) == 1


async def test_truncated_history_is_cut_though_a_sealed_turn_stands_behind_it(replicas: Replicas) -> None:
    gateway, _ = replicas
    given = [user("word " * 2_500)]
    output = await answer(gateway, given, TEXT, truncation="auto")
    new = [user("word " * 2_500)]
    assert (await error(gateway, [*given, *as_sent_back(output), *new]))[1] == "context_length_exceeded"
    await answer(gateway, [*given, *as_sent_back(output), *new], TEXT, truncation="auto")
    await answer(gateway, new, TEXT, truncation="auto")
    assert prompt(gateway, -2) == prompt(gateway, -1)
    # It may hold a truncated conversation, so it goes only with the option that it was made with.
    await answer(gateway, [output[-1], user("Go on")], TEXT, truncation="auto")
    place = (400, "encrypted_content_mismatch", "input[0].encrypted_content")
    assert await error(gateway, [output[-1], user("Go on")]) == place


async def test_result_of_a_sealed_call_is_needed_and_fits_its_id(replicas: Replicas) -> None:
    gateway, _ = replicas
    output = await answer(gateway, [user("Hello")], CALLS)
    assert (await error(gateway, [output[-1], user("Go on")]))[2] == "input[0]"
    foreign = {"type": "function_call_output", "call_id": "call_other", "output": "x"}
    assert (await error(gateway, [output[-1], *results(output), foreign]))[2] == "input[3].call_id"


@pytest.mark.parametrize("beside", [False, True])
async def test_changed_or_foreign_sealed_turn_is_a_400(
    replicas: Replicas, beside: bool, tmp_path: Any
) -> None:
    gateway, _ = replicas
    given = [user("Hello")]
    output = await answer(gateway, given, TEXT)
    before = [*given, *output[:-1]] if beside else []
    place = (400, "invalid_encrypted_content", f"input[{len(before)}].encrypted_content")
    text = output[-1]["encrypted_content"]
    for changed in (text[:-20] + text[-20:].swapcase(), text[:60], "serval1."):
        item = {**output[-1], "encrypted_content": changed}
        assert await error(gateway, [*before, item, user("Go on")]) == place
    keys = tmp_path / "keys"
    keys.write_text("sk-one\nsk-two\n")
    foreign = [{"seal_secret": "x" * 32}, {"served_model_name": "other"}]
    # Another key at the same place of the operator's keys.
    foreign += [{"api_key": None, "api_key_file": keys}]
    for settings in foreign:
        async with running_gateway(**{"seal_secret": SECRET, **settings}) as other:
            sent = body([*before, output[-1], user("Go on")], model=settings.get("served_model_name", MODEL))
            headers = {"authorization": "Bearer sk-one"} if "api_key_file" in settings else {}
            response = await other.post(sent, path=PATH, headers=headers)
            found = (await response.json())["error"]
            assert (response.status, found["code"], found["param"]) == place
            assert not other.engine.requests


async def test_expired_sealed_turn_is_a_400_and_is_passed_over_beside_its_history(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, _ = replicas
    given = [user("Hello")]
    output = await answer(gateway, given, TEXT)
    later = time.time() + 30 * 86_400
    monkeypatch.setattr("serval.api.sealing.time.time", lambda: later)
    new = [output[-1], user("Go on")]
    assert await error(gateway, new) == (400, "encrypted_content_expired", "input[0].encrypted_content")
    await answer(gateway, [*given, *output[:-1], *new], TEXT)
    await answer(gateway, [*given, *output[:-1], new[-1]], TEXT)
    assert prompt(gateway, -2) == prompt(gateway, -1)


async def test_nothing_is_sealed_without_the_secret_or_unless_asked_for() -> None:
    foreign = {"type": "reasoning", "summary": [], "encrypted_content": "opaque"}
    async with running_gateway() as gateway:
        output = await answer(gateway, [foreign, user("Hello")], TEXT)
        assert not any(item["type"] == "reasoning" for item in output)
        sealed = {**foreign, "encrypted_content": "serval1.AAAA"}
        place = (400, "invalid_encrypted_content", "input[0].encrypted_content")
        assert await error(gateway, [sealed, user("Hello")]) == place
        await answer(gateway, [user("Hello"), *output, sealed, user("Go on")], TEXT)
    async with running_gateway(seal_secret=SECRET) as gateway:
        output = await answer(gateway, [foreign, user("Hello")], TEXT, include=[])
        assert not any(item["type"] == "reasoning" for item in output)


async def test_answer_that_is_cut_is_not_sealed(replicas: Replicas) -> None:
    gateway, _ = replicas
    gateway.engine.will_say(*TEXT, ids=tokens(TEXT), finish={"type": "length", "length": 3})
    response = await gateway.post(body([user("Hello")]), path=PATH)
    answered = await response.json()
    assert answered["status"] == "incomplete"
    assert [item["type"] for item in answered["output"]] == ["message"]


async def test_sealed_items_of_a_history_stay_within_five_times_the_newest(replicas: Replicas) -> None:
    gateway, _ = replicas
    items: list[Any] = []
    for turn in range(24):
        items.append(user(" ".join(str(number * number * turn) for number in range(25))))
        items += as_sent_back(await answer(gateway, items, TEXT))
    sizes = [len(item["encrypted_content"]) for item in items if item["type"] == "reasoning"]
    assert 5 < len(sizes) < 24
    assert sum(sizes) <= 5.1 * sizes[-1]


async def test_sealed_item_has_an_id_of_its_answer(replicas: Replicas) -> None:
    output = await answer(replicas[0], [user("Hello")], TEXT, stream=True)
    names = [item["id"].partition("_") for item in output]
    assert [name[0] for name in names] == ["msg", "rs"]
    assert [name[2][-4:] for name in names] == ["0000", "0001"]
    assert names[0][2][:-4] == names[1][2][:-4]


async def test_kept_response_is_not_sealed_and_does_not_read_a_seal(tmp_path: Any) -> None:
    database = str(tmp_path / "keys.db")
    async with running_gateway(seal_secret=SECRET, key_database=database) as gateway:
        kept = await answer(gateway, [user("Hello")], TEXT, store=True)
        assert not any(is_sealed(item) for item in kept)
        sealed = await answer(gateway, [user("Hello")], TEXT)
        assert is_sealed(sealed[-1])
