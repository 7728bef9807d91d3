"""Files and batches: the whole cycle with OpenAI's client, owners, errors, limits, cancelling, restarts."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from openai import APIStatusError, AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError
from openai.types import Batch, FileObject

from serval.settings import Settings
from serval.store.batches import Batch as StoredBatch
from serval.store.batches import BatchTable
from serval.store.factory import open_store
from serval.store.files import FileTable
from serval_testkit.gateway import MODEL, RunningGateway, running_gateway
from serval_testkit.stand_in_engine import Answer

CHAT = "/v1/chat/completions"
POLL_S = 0.05


@asynccontextmanager
async def batch_gateway(folder: Path, **settings: Any) -> AsyncIterator[RunningGateway]:
    """A gateway that runs batches of `folder`."""
    values: dict[str, Any] = {
        "key_database": str(folder / "keys.db"),
        "batch_folder": folder / "files",
        "batch_poll_s": POLL_S,
    }
    async with running_gateway(**{**values, **settings}) as gateway:
        yield gateway


def key_of(folder: Path) -> str:
    """A new key of the database."""
    store = open_store(Settings(key_database=str(folder / "keys.db")))
    _, key = store.create(name="a", scopes=["inference"])
    return key


def line(custom_id: str, *, url: str = CHAT, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"model": MODEL}
    if url == CHAT:
        body["messages"] = [{"role": "user", "content": custom_id}]
    elif url == "/v1/responses":
        body["input"] = custom_id
    else:
        body["prompt"] = custom_id
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {**body, **fields}}


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


async def upload(client: AsyncOpenAI, content: bytes) -> FileObject:
    return await client.files.create(file=("in.jsonl", content), purpose="batch")


async def start(client: AsyncOpenAI, content: bytes, *, endpoint: Any = CHAT) -> Batch:
    file = await upload(client, content)
    return await client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h")


async def until(client: AsyncOpenAI, batch: Batch, *statuses: str) -> Batch:
    async with asyncio.timeout(100):
        while True:
            batch = await client.batches.retrieve(batch.id)
            if batch.status in statuses:
                return batch
            await asyncio.sleep(POLL_S)


async def lines_of(client: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id is not None
    return [json.loads(each) for each in (await client.files.content(file_id)).text.splitlines()]


async def test_whole_cycle_with_the_client_of_openai(tmp_path: Path) -> None:
    async with batch_gateway(tmp_path) as gateway:
        client = gateway.openai
        content = jsonl(line("a"), line("b", max_tokens=10**6, metadata={"x": "y"}), line("c"))
        file = await upload(client, content)
        assert (file.bytes, file.filename, file.purpose) == (len(content), "in.jsonl", "batch")
        assert (await client.files.content(file.id)).content == content
        batch = await client.batches.create(
            input_file_id=file.id, endpoint=CHAT, completion_window="24h", metadata={"job": "1"}
        )
        assert (batch.status, batch.metadata) == ("validating", {"job": "1"})
        batch = await until(client, batch, "completed")
        counts = batch.request_counts
        assert counts is not None
        assert (counts.total, counts.completed, counts.failed) == (3, 3, 0)
        output = await lines_of(client, batch.output_file_id)
        assert [each["custom_id"] for each in output] == ["a", "b", "c"]
        for each in output:
            assert each["error"] is None
            assert each["response"]["status_code"] == 200
            assert each["response"]["request_id"].startswith("req_")
            assert each["response"]["body"]["choices"][0]["message"]["content"] == "Hello world"
        used = [each["response"]["body"]["usage"] for each in output]
        assert batch.usage is not None
        assert batch.usage.input_tokens == sum(each["prompt_tokens"] for each in used)
        assert batch.usage.output_tokens == sum(each["completion_tokens"] for each in used) > 0
        assert batch.error_file_id is None
        assert batch.in_progress_at is not None
        assert batch.model == MODEL
        listed = [each.id async for each in client.batches.list()]
        files = {each.id: each.purpose async for each in client.files.list()}
        assert listed == [batch.id]
        assert files == {file.id: "batch", batch.output_file_id: "batch_output"}
        assert (await client.files.delete(file.id)).deleted
        with pytest.raises(NotFoundError):
            await client.files.retrieve(file.id)
        page = await gateway.get("/metrics")
        assert 'serval_batch_lines_total{outcome="completed"} 3.0' in await page.text()
    assert sorted(path.name for path in (tmp_path / "files").iterdir()) == [batch.output_file_id]


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/responses"])
async def test_other_endpoints_are_run_too(tmp_path: Path, endpoint: Any) -> None:
    async with batch_gateway(tmp_path) as gateway:
        batch = await start(gateway.openai, jsonl(line("a", url=endpoint)), endpoint=endpoint)
        batch = await until(gateway.openai, batch, "completed")
        (only,) = await lines_of(gateway.openai, batch.output_file_id)
        assert only["response"]["body"]["object"] in ("text_completion", "response")
        assert batch.usage is not None
        assert batch.usage.total_tokens > batch.usage.output_tokens > 0


async def test_bad_lines_fail_the_batch_with_their_numbers(tmp_path: Path) -> None:
    wrong = [
        line("a"),
        {**line("a")},
        line("b", stream=True),
        line("c", temperature=9),
        line("d", url="/v1/completions"),
        {**line("e"), "method": "GET"},
        line("f", model="other"),
        {"method": "POST"},
    ]
    content = jsonl(*wrong) + b"\n{nothing\n"
    async with batch_gateway(tmp_path) as gateway:
        batch = await until(gateway.openai, await start(gateway.openai, content), "failed")
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert [(each.line, each.code, each.param) for each in batch.errors.data] == [
            (2, "duplicate_custom_id", "custom_id"),
            (3, "unsupported_value", "body.stream"),
            (4, "invalid_value", "body.temperature"),
            (5, "mismatched_endpoint", "url"),
            (6, "invalid_method", "method"),
            (7, "model_not_found", "body.model"),
            (8, "invalid_line", None),
            (10, "invalid_json_line", None),
        ]
        assert gateway.engine.requests == []


async def test_error_of_a_line_is_in_the_error_file_and_others_go_on(tmp_path: Path) -> None:
    content = jsonl(line("a"), line("long", messages=[{"role": "user", "content": "x " * 9000}]))
    async with batch_gateway(tmp_path) as gateway:
        batch = await until(gateway.openai, await start(gateway.openai, content), "completed")
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
        (failed,) = await lines_of(gateway.openai, batch.error_file_id)
        assert failed["custom_id"] == "long"
        assert failed["response"]["status_code"] == 400
        assert failed["response"]["body"]["error"]["code"] == "context_length_exceeded"


async def test_files_and_batches_of_another_key_are_not_there(tmp_path: Path) -> None:
    async with batch_gateway(tmp_path) as gateway:
        stranger = gateway.openai.with_options(api_key=key_of(tmp_path))
        await _until_accepted(stranger)
        batch = await until(gateway.openai, await start(gateway.openai, jsonl(line("a"))), "completed")
        assert batch.output_file_id is not None
        for forbidden in (
            stranger.files.retrieve(batch.input_file_id),
            stranger.files.content(batch.output_file_id),
            stranger.files.delete(batch.output_file_id),
            stranger.batches.retrieve(batch.id),
            stranger.batches.cancel(batch.id),
            stranger.batches.create(
                input_file_id=batch.input_file_id, endpoint=CHAT, completion_window="24h"
            ),
        ):
            with pytest.raises(NotFoundError):
                await forbidden
        assert [each async for each in stranger.files.list()] == []
        assert [each async for each in stranger.batches.list()] == []


async def test_cancelled_batch_keeps_what_was_done(tmp_path: Path) -> None:
    async with batch_gateway(tmp_path, batch_concurrency=1) as gateway:
        hold = asyncio.Event()
        gateway.engine.answers.append(Answer(hold=hold))
        batch = await start(gateway.openai, jsonl(line("a"), line("b")))
        await asyncio.wait_for(gateway.engine.generating.wait(), 100)
        assert (await gateway.openai.batches.cancel(batch.id)).status == "cancelling"
        with pytest.raises(BadRequestError, match="input of a batch"):
            await gateway.openai.files.delete(batch.input_file_id)
        hold.set()
        batch = await until(gateway.openai, batch, "cancelled")
        assert [each["custom_id"] for each in await lines_of(gateway.openai, batch.output_file_id)] == ["a"]
        (left,) = await lines_of(gateway.openai, batch.error_file_id)
        assert (left["custom_id"], left["error"]["code"]) == ("b", "batch_cancelled")
        assert len(gateway.engine.requests) == 1
        with pytest.raises(BadRequestError, match="can no longer be cancelled"):
            await gateway.openai.batches.cancel(batch.id)


async def test_lines_wait_for_an_engine_and_for_limits(tmp_path: Path) -> None:
    """An engine that is away and a key's limit refuse requests; a batch goes on when they no longer do."""
    async with batch_gateway(tmp_path, requests_per_minute=600, concurrent_requests=1) as gateway:
        gateway.engine.hangs_up = True
        batch = await start(gateway.openai, jsonl(*(line(f"line-{number}") for number in range(4))))
        await asyncio.wait_for(gateway.engine.generating.wait(), 100)
        gateway.engine.hangs_up = False
        batch = await until(gateway.openai, batch, "completed")
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (4, 0)


async def test_line_on_which_the_engine_fails_each_time_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval.batches.verdict.MOST_ATTEMPTS", 2)

    def script(body: dict[str, Any]) -> Answer:
        return Answer(fault="error_event") if body["sampling_params"]["max_new_tokens"] == 7 else Answer()

    async with batch_gateway(tmp_path, breaker_failures=1000) as gateway:
        gateway.engine.script = script
        batch = await start(gateway.openai, jsonl(line("good"), line("bad", max_tokens=7)))
        batch = await until(gateway.openai, batch, "completed")
        (failed,) = await lines_of(gateway.openai, batch.error_file_id)
        assert failed["custom_id"] == "bad"
        assert failed["response"]["status_code"] >= 500


async def test_batch_goes_on_after_a_restart(tmp_path: Path) -> None:
    """The line that ran when the first gateway ended is run by the second, at once, and recorded once."""
    content = jsonl(*(line(f"line-{number}") for number in range(5)))
    async with batch_gateway(tmp_path, batch_concurrency=1) as first:
        first.engine.answers.append(Answer())
        first.engine.answers.append(Answer(hold=asyncio.Event()))
        batch = await start(first.openai, content)
        async with asyncio.timeout(100):
            while len(first.engine.requests) < 2:  # noqa: ASYNC110  # a count of requests
                await asyncio.sleep(POLL_S)
    async with batch_gateway(tmp_path) as second:
        batch = await until(second.openai, batch, "completed")
        names = [each["custom_id"] for each in await lines_of(second.openai, batch.output_file_id)]
        assert names == [f"line-{number}" for number in range(5)]
        assert len(second.engine.requests) == 4


async def test_lines_of_a_revoked_key_fail(tmp_path: Path) -> None:
    async with batch_gateway(tmp_path, batch_concurrency=1) as gateway:
        store = open_store(Settings(key_database=str(tmp_path / "keys.db")))
        record, key = store.create(name="a", scopes=["inference"])
        client = gateway.openai.with_options(api_key=key)
        await _until_accepted(client)
        hold = asyncio.Event()
        gateway.engine.answers.append(Answer(hold=hold))
        batch = await start(client, jsonl(line("a"), line("b")))
        await asyncio.wait_for(gateway.engine.generating.wait(), 100)
        store.revoke(record.id)
        with pytest.raises(AuthenticationError):
            await _until_refused(client)
        hold.set()
        found = await _until_completed(BatchTable(store.engine), batch.id)
        # The line that ran may have been finished.
        assert found.failed >= 1
        assert len(gateway.engine.requests) == 1


async def _until_accepted(client: AsyncOpenAI) -> None:
    async with asyncio.timeout(100):
        while True:
            with suppress(AuthenticationError):
                await client.models.list()
                return


async def _until_refused(client: AsyncOpenAI) -> None:
    async with asyncio.timeout(100):
        while True:
            await client.models.list()


async def _until_completed(table: BatchTable, batch_id: str) -> StoredBatch:
    async with asyncio.timeout(100):
        while True:
            found = table.find(batch_id)
            assert found is not None
            if found.status == "completed":
                return found
            await asyncio.sleep(POLL_S)


async def test_file_that_is_empty_or_too_large_is_refused(tmp_path: Path) -> None:
    async with batch_gateway(tmp_path, batch_max_file_bytes=1024, batch_max_stored_bytes=1500) as gateway:
        with pytest.raises(BadRequestError, match="is empty"):
            await upload(gateway.openai, b"")
        with pytest.raises(APIStatusError, match="1024 bytes"):
            await upload(gateway.openai, b"x" * 1025)
        await upload(gateway.openai, b"x" * 1000)
        with pytest.raises(BadRequestError, match="Delete some"):
            await upload(gateway.openai, b"x" * 1000)
    assert len(list((tmp_path / "files").iterdir())) == 1


async def test_upload_without_room_is_refused_before_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with batch_gateway(tmp_path, batch_max_stored_bytes=1500) as gateway:
        await upload(gateway.openai, b"x" * 1000)
        # A whole file would be added.
        monkeypatch.delattr(FileTable, "add")
        with pytest.raises(BadRequestError, match="Delete some"):
            await upload(gateway.openai, b"x" * 501)
    assert len(list((tmp_path / "files").iterdir())) == 1


async def test_gateway_without_a_folder_has_no_batches() -> None:
    async with running_gateway() as gateway:
        for path in ("/v1/files", "/v1/batches", "/v1/files/a/content", "/v1/batches/b"):
            response = await gateway.get(path)
            assert response.status == 404
            assert (await response.json())["error"]["code"] == "batches_not_served"
