"""Coroutines that run and end together."""

import asyncio

import pytest

from serval.api.tasks import all_of


@pytest.mark.parametrize("count", [1, 3])
async def test_all_of_runs_everything_to_its_end(count: int) -> None:
    ended: list[int] = []

    async def work(number: int) -> None:
        await asyncio.sleep(0)
        ended.append(number)

    await all_of([work(number) for number in range(count)])
    assert sorted(ended) == list(range(count))


async def test_all_of_raises_the_first_error_after_the_others_cleaned_up() -> None:
    cleaned = False

    async def fails() -> None:
        await asyncio.sleep(0)
        raise LookupError

    async def goes_on() -> None:
        nonlocal cleaned
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    with pytest.raises(LookupError):
        await all_of([goes_on(), fails()])
    assert cleaned


async def test_all_of_cancels_everything_when_cancelled() -> None:
    cancelled = 0

    async def goes_on() -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled += 1
            raise

    running = asyncio.create_task(all_of([goes_on(), goes_on()]))
    for _ in range(3):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert cancelled == 2
