"""Responses that the key database keeps: `previous_response_id`, and the endpoints of kept responses."""

import asyncio
import base64
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from serval.api.kept_responses import KeptResponses
from serval.scheduling.body_budget import BodyBudget
from serval.scheduling.render_queue import RenderQueue
from serval.settings import Settings
from serval.store.factory import open_store
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway

PATH = "/v1/responses"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CALL = "<longcat_tool_call>f\n</longcat_tool_call>\n"
WHOLE_HISTORY: list[dict[str, Any]] = [
    {"role": "user", "content": "Go"},
    {"role": "assistant", "content": "I call."},
    {"type": "function_call", "call_id": "CALL", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "CALL", "output": "done"},
]
# Three of them do not fit into the context of 8,000 tokens.
LONG = "word " * 1_500
LONG_TOKENS = 3_000


async def ask(gateway: RunningGateway, key: str = API_KEY, **fields: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": MODEL, "tools": [TOOL], **fields}
    response = await gateway.post(body, path=PATH, headers={"authorization": f"Bearer {key}"})
    answer: dict[str, Any] = await response.json()
    return response.status, answer


async def first_turn(gateway: RunningGateway, key: str = API_KEY, **fields: Any) -> dict[str, Any]:
    gateway.engine.will_say("I call.", CALL)
    status, answer = await ask(gateway, key, **{"input": "Go", **fields})
    assert status == 200
    return answer


def result_of(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"type": "function_call_output", "call_id": answer["output"][1]["call_id"], "output": "done"}]


def image(size: int) -> dict[str, Any]:
    """Return a message with an image of about `size` bytes, which cannot be compressed."""
    data = base64.b64encode(random.Random(0).randbytes(size * 3 // 4)).decode()
    return {
        "role": "user",
        "content": [{"type": "input_image", "image_url": f"data:image/png;base64,{data}"}],
    }


def prompt(gateway: RunningGateway) -> list[int]:
    ids: list[int] = gateway.engine.requests[-1]["input_ids"]
    return ids


def make_key(database: str, name: str) -> str:
    return open_store(Settings(key_database=database)).create(name=name, scopes=["inference"])[1]


async def test_kept_response_is_continued_by_another_gateway(key_database: str) -> None:
    async with (
        running_gateway(key_database=key_database) as one,
        running_gateway(key_database=key_database) as other,
    ):
        first = await first_turn(one, instructions="Be brief.")
        assert first["store"] is True
        status, second = await ask(other, previous_response_id=first["id"], input=result_of(first))
        assert status == 200
        assert second["previous_response_id"] == first["id"]
        continued = prompt(other)
        # Instructions are not carried over, and everything else is.
        await ask(other, input=WHOLE_HISTORY, store=False)
        assert continued == prompt(other)
        one.engine.will_say("Good.")
        status, third = await ask(one, previous_response_id=second["id"], input="Thanks")
        assert status == 200
        assert prompt(one)[: len(continued)] == continued
        status, _ = await ask(
            other, previous_response_id=third["id"], input="Again", instructions="Be brief."
        )
        assert status == 200


async def test_streamed_response_is_kept_as_the_client_saw_it(tmp_path: Path) -> None:
    async with running_gateway(key_database=str(tmp_path / "keys.db")) as gateway:
        gateway.engine.will_say("I call.", CALL, " And more.")
        async with gateway.openai.responses.stream(model=MODEL, input="Go", tools=[TOOL]) as stream:  # type: ignore[list-item]
            async for _ in stream:
                pass
            final = await stream.get_final_response()
        stored = await (await gateway.get(f"{PATH}/{final.id}")).json()
        assert [item["id"] for item in stored["output"]] == [item.id for item in final.output]
        assert stored["status"] == "completed"
        retrieved = await gateway.openai.responses.retrieve(final.id)
        assert retrieved.output_text == final.output_text


@pytest.mark.parametrize("response_id", ["resp_" + "0" * 32, "resp_\0", "", "x" * 1000])
async def test_unknown_previous_response_is_an_error(key_database: str, response_id: str) -> None:
    async with running_gateway(key_database=key_database) as gateway:
        status, answer = await ask(gateway, previous_response_id=response_id, input="Go")
        assert status == 400
        assert answer["error"]["code"] == "previous_response_not_found"
        assert answer["error"]["param"] == "previous_response_id"
        assert gateway.engine.requests == []


async def test_response_of_another_key_is_as_if_it_did_not_exist(key_database: str) -> None:
    mine, other = make_key(key_database, "mine"), make_key(key_database, "other")
    async with running_gateway(key_database=key_database) as gateway:
        first = await first_turn(gateway, mine)
        unknown = "resp_" + "0" * 32
        refused = await ask(gateway, other, previous_response_id=first["id"], input="Go")
        absent = await ask(gateway, other, previous_response_id=unknown, input="Go")
        assert refused[0] == absent[0] == 400
        assert str(refused[1]).replace(first["id"], unknown) == str(absent[1])
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items")):
            response = await gateway.get(f"{PATH}/{first['id']}{path}", method=method, key=other)
            assert (response.status, (await response.json())["error"]["code"]) == (404, "response_not_found")
        assert (await gateway.get(f"{PATH}/{first['id']}", key=mine)).status == 200


async def test_deleted_response_is_gone(key_database: str) -> None:
    async with running_gateway(key_database=key_database) as gateway:
        first = await first_turn(gateway)
        response = await gateway.get(f"{PATH}/{first['id']}", method="DELETE")
        assert await response.json() == {"id": first["id"], "object": "response", "deleted": True}
        assert (await gateway.get(f"{PATH}/{first['id']}")).status == 404
        assert (await gateway.get(f"{PATH}/{first['id']}", method="DELETE")).status == 404
        assert (await ask(gateway, previous_response_id=first["id"], input=result_of(first)))[0] == 400


async def test_response_is_not_kept_if_not_wanted(tmp_path: Path) -> None:
    async with running_gateway(key_database=str(tmp_path / "keys.db")) as gateway:
        answer = await first_turn(gateway, store=False)
        assert answer["store"] is False
        assert (await gateway.get(f"{PATH}/{answer['id']}")).status == 404
        # It continues a kept one all the same.
        kept = await first_turn(gateway)
        status, second = await ask(
            gateway, previous_response_id=kept["id"], input=result_of(kept), store=False
        )
        assert (status, second["store"]) == (200, False)


@pytest.mark.parametrize("settings", [{"responses_keep_s": 0}, {"responses_max_bytes": 1000}])
async def test_answer_says_when_settings_keep_it_from_being_kept(tmp_path: Path, settings: Any) -> None:
    async with running_gateway(key_database=str(tmp_path / "keys.db"), **settings) as gateway:
        answer = await first_turn(gateway, store=True)
        assert answer["store"] is False
        assert (await gateway.get(f"{PATH}/{answer['id']}")).status == 404


async def test_answer_is_given_when_the_database_fails(tmp_path: Path) -> None:
    database = tmp_path / "keys.db"
    async with running_gateway(key_database=str(database)) as gateway:
        first = await first_turn(gateway)
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("DROP TABLE responses")
        answer = await first_turn(gateway)
        assert answer["store"] is False
        status, error = await ask(gateway, previous_response_id=first["id"], input=result_of(first))
        assert (status, error["error"]["code"]) == (503, "key_database_unavailable")
        assert (await gateway.get(f"{PATH}/{first['id']}")).status == 503


async def test_conversation_larger_than_a_body_is_refused(tmp_path: Path) -> None:
    async with running_gateway(key_database=str(tmp_path / "keys.db"), max_body_bytes=8000) as gateway:
        first = await first_turn(gateway, instructions="x" * 5000)
        status, second = await ask(
            gateway, previous_response_id=first["id"], input=result_of(first), instructions="y" * 5000
        )
        assert status == 200
        status, answer = await ask(gateway, previous_response_id=second["id"], input="Go")
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")


async def test_error_in_a_continued_conversation_names_the_place(tmp_path: Path) -> None:
    async with running_gateway(key_database=str(tmp_path / "keys.db")) as gateway:
        first = await first_turn(gateway)
        status, answer = await ask(gateway, previous_response_id=first["id"], input="Go on")
        assert status == 400
        assert "No tool output found" in answer["error"]["message"]
        assert answer["error"]["param"] == f"{first['id']}.output[1]"


async def test_input_items_are_listed_in_pages(tmp_path: Path) -> None:
    async with running_gateway(key_database=str(tmp_path / "keys.db")) as gateway:
        items = [{"role": "user", "content": str(number)} for number in range(5)]
        items[1]["id"] = "msg_mine"
        _, answer = await ask(gateway, input=items)
        url = f"{PATH}/{answer['id']}/input_items"

        async def page(query: str) -> dict[str, Any]:
            found: dict[str, Any] = await (await gateway.get(f"{url}?{query}")).json()
            return found

        newest = await page("limit=2")
        assert [item["content"] for item in newest["data"]] == ["4", "3"]
        assert newest["has_more"] is True
        rest = await page(f"limit=10&after={newest['last_id']}")
        assert [item["content"] for item in rest["data"]] == ["2", "1", "0"]
        assert (rest["has_more"], rest["data"][1]["id"]) == (False, "msg_mine")
        oldest = await page("order=asc")
        assert [item["content"] for item in oldest["data"]] == ["0", "1", "2", "3", "4"]
        assert (await gateway.get(f"{url}?after=odd")).status == 400
        assert (await gateway.get(f"{url}?limit=0")).status == 400
        text = (await ask(gateway, input="Hi"))[1]
        (item,) = (await (await gateway.get(f"{PATH}/{text['id']}/input_items")).json())["data"]
        assert (item["role"], item["content"]) == ("user", "Hi")


async def test_reading_and_deleting_count_against_the_requests_of_a_key(tmp_path: Path) -> None:
    async with running_gateway(key_database=str(tmp_path / "keys.db"), requests_per_minute=2) as gateway:
        answer = await first_turn(gateway)
        assert (await gateway.get(f"{PATH}/{answer['id']}")).status == 200
        assert (await gateway.get(f"{PATH}/{answer['id']}")).status == 429


async def test_kept_conversation_is_counted_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body of a few bytes may continue a conversation of megabytes."""
    steps: list[str] = []
    take, load = BodyBudget.take, KeptResponses.load

    def taking(budget: BodyBudget, key: str, size: int) -> None:
        take(budget, key, size)
        steps.append("counted")

    async def loading(kept: KeptResponses, subject: str, ids: Any) -> Any:
        steps.append("read")
        return await load(kept, subject, ids)

    settings: dict[str, Any] = {"non_text_parts": "omit"}
    async with running_gateway(key_database=str(tmp_path / "keys.db"), **settings) as gateway:
        first = await first_turn(gateway, input=[image(200_000)])
        monkeypatch.setattr(BodyBudget, "take", taking)
        monkeypatch.setattr(KeptResponses, "load", loading)
        await ask(gateway, previous_response_id=first["id"], input=result_of(first))
    assert steps == ["counted", "read"]


async def test_continued_request_is_prepared_in_a_thread_if_it_or_its_conversation_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = RenderQueue.run

    def running(queue: RenderQueue, key: Any, size: int, work: Any) -> Any:
        sizes.append(size)
        return run(queue, key, size, work)

    settings: dict[str, Any] = {"non_text_parts": "omit"}
    async with running_gateway(key_database=str(tmp_path / "keys.db"), **settings) as gateway:
        first = await first_turn(gateway)
        long = await first_turn(gateway, input=[image(100_000)])
        monkeypatch.setattr(RenderQueue, "run", running)
        items = [*result_of(first), {"role": "user", "content": "x" * 100_000}]
        await ask(gateway, previous_response_id=first["id"], input=items)
        # Decoded, joined with its conversation, and rendered.
        assert [size > 100_000 for size in sizes] == [True, True, True]
        sizes.clear()
        await ask(gateway, previous_response_id=long["id"], input=result_of(long))
        assert [size > 100_000 for size in sizes] == [True, True]


async def test_images_that_are_kept_count_until_the_answer_ends(tmp_path: Path) -> None:
    """They are no part of the prompt, but wait in memory for the end of the answer."""
    settings: dict[str, Any] = {"non_text_parts": "omit", "max_body_bytes": 400_000, "held_body_bytes": 1}
    async with running_gateway(key_database=str(tmp_path / "keys.db"), **settings) as gateway:
        gateway.engine.will_say("a", fault="silent")
        waiting = asyncio.ensure_future(ask(gateway, input=[image(390_000)]))
        await asyncio.wait_for(gateway.engine.generating.wait(), 60)
        status, answer = await ask(gateway, input=[image(390_000)])
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
        waiting.cancel()


async def test_conversation_of_too_many_values_is_refused(tmp_path: Path) -> None:
    """Each of its requests is within the bounds of a body."""
    async with running_gateway(key_database=str(tmp_path / "keys.db")) as gateway:
        many = [{"type": "odd", "a": [[]] * 20_000}]
        previous: dict[str, Any] = {}
        for _ in range(3):
            items = [{"role": "user", "content": "a"}, *many]
            status, answer = await ask(gateway, input=items, **previous)
            assert status == 200
            previous = {"previous_response_id": answer["id"]}
        status, answer = await ask(gateway, input=[{"role": "user", "content": "a"}, *many], **previous)
        assert status == 200
        status, answer = await ask(gateway, input="Go", previous_response_id=answer["id"])
        assert (status, answer["error"]["code"]) == (400, "too_many_values")
        assert answer["error"]["param"] == "previous_response_id"


async def test_kept_conversation_that_does_not_fit_is_truncated_if_asked_for(tmp_path: Path) -> None:
    async with running_gateway(key_database=str(tmp_path / "keys.db")) as gateway:
        last = None
        for _ in range(2):
            status, answer = await ask(gateway, input=LONG, previous_response_id=last)
            assert status == 200
            last = answer["id"]
        asked = {"input": LONG, "previous_response_id": last}
        status, refused = await ask(gateway, **asked)
        assert (status, refused["error"]["code"]) == (400, "context_length_exceeded")
        status, answer = await ask(gateway, **asked, truncation="auto")
        assert (status, answer["truncation"]) == (200, "auto")
        assert LONG_TOKENS < len(prompt(gateway)) < 8_000
