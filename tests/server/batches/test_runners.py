"""Runners of lines and of tasks on a real table: dead processes, restarts, expiry, a database away."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.exc import OperationalError

from serval.batches.folder import ContentFolder, open_folder
from serval.batches.lines import LineRunner
from serval.batches.tasks import TaskRunner
from serval.batches.verdict import Answer
from serval.caller.identity import Identity
from serval.store.batch_lines import LineTable
from serval.store.batches import Batch, BatchTable
from serval.store.database import open_database
from serval.store.files import FileTable, new_file_id

URL = "/v1/completions"
POLL_S = 0.01
LEASE_S = 30
CALLER = Identity(frozenset({"inference"}), key_id="a")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Place:
    """Tables and folder that several processes share, and their clock."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        engine = open_database(str(folder / "keys.db"))
        self.lines = LineTable(engine, now=self.clock)
        self.batches = BatchTable(engine, now=self.clock)
        self.files = FileTable(engine, now=self.clock)
        self.folder: ContentFolder = open_folder(folder / "files")

    def batch(self, lines: int) -> str:
        """Create a batch; return its id."""
        file_id = new_file_id()
        with self.folder.writing(file_id) as file:
            for number in range(lines):
                line = {"custom_id": f"{number}", "method": "POST", "url": URL, "body": {"n": number}}
                file.write(json.dumps(line).encode() + b"\n")
        return self.batches.create(
            "a",
            caller=msgspec.json.encode(CALLER).decode(),
            endpoint=URL,
            input_file_id=file_id,
            window_s=3600,
            output_keep_s=100,
            metadata=None,
            max_open=9,
        ).id

    def find(self, batch_id: str) -> Batch:
        batch = self.batches.find(batch_id)
        assert batch is not None
        return batch

    def output(self, file_id: str | None) -> list[dict[str, Any]]:
        assert file_id is not None
        return [json.loads(line) for line in self.folder.path_of(file_id).read_bytes().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


class Process:
    """The runners of one process; `answered` are the numbers of lines that it has answered."""

    def __init__(self, place: Place, name: str, *, most: int = 4) -> None:
        self.answered: list[int] = []
        self.answer: Callable[[int], Answer] = lambda number: Answer(200, "req", {}, b'{"n": %d}' % number)
        self.begun = asyncio.Event()
        # Answers wait for it.
        self.go = asyncio.Event()
        self.go.set()
        self.stop = asyncio.Event()
        self.outcomes: list[str] = []
        self._lines = LineRunner(
            place.lines,
            place.folder,
            self._answer,
            worker=name,
            allowed=lambda _: most,
            most=most,
            count=self.outcomes.append,
            lease_s=LEASE_S,
            poll_s=POLL_S,
        )
        self._tasks = TaskRunner(
            place.batches,
            place.lines,
            place.files,
            place.folder,
            lambda identity, endpoint: lambda body: None,
            worker=name,
            model="m",
            max_lines=1000,
            keep_s=10**6,
            show=lambda counts: None,
            lease_s=LEASE_S,
            poll_s=POLL_S,
        )
        self._running: Sequence[asyncio.Task[None]] = ()

    async def _answer(self, identity: Identity, path: str, body: bytes) -> Answer:
        assert (identity, path) == (CALLER, URL)
        number: int = json.loads(body)["n"]
        self.begun.set()
        await self.go.wait()
        self.answered.append(number)
        return self.answer(number)

    def start(self) -> "Process":
        self._running = [
            asyncio.create_task(self._lines.run(self.stop)),
            asyncio.create_task(self._tasks.run(self.stop)),
        ]
        return self

    async def end(self) -> None:
        """End as at SIGTERM."""
        self.stop.set()
        await asyncio.gather(*self._running)

    async def kill(self) -> None:
        """End as at `kill -9`, but for threads: no lease is given back, no result recorded."""
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(place: Place, batch_id: str, *statuses: str) -> Batch:
    async with asyncio.timeout(60):
        while True:
            batch = place.find(batch_id)
            if batch.status in statuses:
                return batch
            await asyncio.sleep(POLL_S)


async def test_lines_of_a_killed_process_are_run_by_another_and_recorded_once(place: Place) -> None:
    killed = Process(place, "killed")
    batch_id = place.batch(10)
    killed.go.clear()
    killed.start()
    await asyncio.wait_for(killed.begun.wait(), 60)
    await killed.kill()
    other = Process(place, "other").start()
    async with asyncio.timeout(60):
        while place.find(batch_id).completed < 6:  # noqa: ASYNC110  # a row of the database
            await asyncio.sleep(POLL_S)
    # The leases of the killed one have not expired.
    assert place.find(batch_id).status == "in_progress"
    place.clock.now += LEASE_S + 1
    batch = await until(place, batch_id, "completed")
    await other.end()
    assert [line["custom_id"] for line in place.output(batch.output_file_id)] == [str(n) for n in range(10)]
    assert sorted(other.answered) == list(range(10))
    assert batch.error_file_id is None


async def test_process_that_ends_gives_its_lines_back_at_once(place: Place) -> None:
    first = Process(place, "first", most=2)
    batch_id = place.batch(4)
    first.go.clear()
    first.start()
    await asyncio.wait_for(first.begun.wait(), 60)
    await first.end()
    second = Process(place, "second").start()
    batch = await until(place, batch_id, "completed")
    await second.end()
    assert (batch.completed, sorted(second.answered)) == (4, [0, 1, 2, 3])


async def test_slow_process_whose_lines_were_taken_over_adds_nothing(place: Place) -> None:
    slow = Process(place, "slow", most=1)
    batch_id = place.batch(1)
    slow.go.clear()
    slow.start()
    await asyncio.wait_for(slow.begun.wait(), 60)
    place.clock.now += LEASE_S + 1
    fast = Process(place, "fast").start()
    batch = await until(place, batch_id, "completed")
    slow.go.set()
    async with asyncio.timeout(60):
        while not slow.outcomes:  # noqa: ASYNC110  # filled by a callback
            await asyncio.sleep(POLL_S)
    await slow.end()
    await fast.end()
    assert place.find(batch_id) == batch
    assert len(place.output(batch.output_file_id)) == 1


async def test_lines_that_were_not_run_in_time_expire(place: Place) -> None:
    process = Process(place, "a", most=1)
    batch_id = place.batch(3)
    process.answer = lambda number: (
        Answer(200, "req", {}, b"{}") if not number else Answer(429, "req", {"retry-after": "60"}, b"{}")
    )
    process.start()
    async with asyncio.timeout(60):
        while "retried" not in process.outcomes:  # noqa: ASYNC110  # filled by a callback
            await asyncio.sleep(POLL_S)
    place.clock.now += 3600
    batch = await until(place, batch_id, "expired")
    await process.end()
    assert (batch.completed, batch.failed) == (1, 2)
    assert [line["custom_id"] for line in place.output(batch.output_file_id)] == ["0"]
    errors = place.output(batch.error_file_id)
    assert [(line["custom_id"], line["error"]["code"]) for line in errors] == [
        ("1", "batch_expired"),
        ("2", "batch_expired"),
    ]


async def test_results_wait_for_a_database_that_is_away(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = place.lines.record
    failures = [1, 2]

    def sometimes(results: Any) -> int:
        if failures:
            failures.pop()
            raise OperationalError("", {}, Exception("away"))
        return record(results)

    monkeypatch.setattr(place.lines, "record", sometimes)
    monkeypatch.setattr("serval.batches.lines._DATABASE_PAUSE_S", POLL_S)
    process = Process(place, "a")
    batch_id = place.batch(2)
    process.start()
    batch = await until(place, batch_id, "completed")
    await process.end()
    assert (batch.completed, failures) == (2, [])
    assert sorted(process.answered) == [0, 1]


async def test_process_that_is_shutting_down_takes_no_more_lines(place: Place) -> None:
    process = Process(place, "a", most=1)
    batch_id = place.batch(3)
    process.answer = lambda number: Answer(503, "req", {}, b'{"error": {"code": "shutting_down"}}')
    process.start()
    await asyncio.wait_for(process.begun.wait(), 60)
    await process.end()
    assert process.answered == [0]
    assert [line.number for line in place.lines.lease("b", 9, lease_s=9)] == [1, 2, 3]
    assert place.find(batch_id).status == "in_progress"


async def test_defect_in_a_line_keeps_neither_it_nor_the_runner(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serval.batches.lines._DEFECT_PAUSE_S", POLL_S)
    process = Process(place, "a", most=1)
    batch_id = place.batch(2)
    defects = [1, 2]

    def answer(number: int) -> Answer:
        if defects:
            defects.pop()
            raise KeyError("a defect")
        return Answer(200, "req", {}, b"{}")

    process.answer = answer
    process.start()
    batch = await until(place, batch_id, "completed")
    await process.end()
    assert (batch.completed, process.answered) == (2, [0, 0, 0, 1])
