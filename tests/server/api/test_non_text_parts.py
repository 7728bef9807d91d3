"""Images that an agent puts into the history, as cline does after reading one."""

from collections.abc import Callable
from typing import Any

import pytest

from serval.api import answering
from serval.api.preparation import in_turn
from serval_testkit.gateway import MODEL, RunningGateway, running_gateway

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
CALL = {"id": "c", "type": "function", "function": {"name": "read_files", "arguments": '{"path": "a.png"}'}}
READ: list[Any] = [
    {"role": "user", "content": "Look at the image."},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "Read a.png."},
    {"role": "user", "content": [IMAGE]},
]


async def test_image_of_the_history_becomes_a_text(gateway: RunningGateway) -> None:
    first = await gateway.post({"model": MODEL, "messages": READ})
    assert first.status == 200
    later = [*READ, {"role": "assistant", "content": "I cannot."}, {"role": "user", "content": "Go on."}]
    assert (await gateway.post({"model": MODEL, "messages": later})).status == 200
    prompts = [request["input_ids"] for request in gateway.engine.requests]
    assert prompts[1][: len(prompts[0])] == prompts[0]
    counted = await gateway.post({"model": MODEL, "messages": READ}, path="/tokenize")
    assert (await counted.json())["tokens"] == prompts[0]


@pytest.mark.parametrize(
    ("policy", "read", "asked"), [("refuse", 400, 400), ("refuse_new", 200, 400), ("omit", 200, 200)]
)
async def test_non_text_parts_follow_the_setting(policy: str, read: int, asked: int) -> None:
    async with running_gateway(non_text_parts=policy) as gateway:
        for path in ("/v1/chat/completions", "/tokenize"):
            answer = await gateway.post({"model": MODEL, "messages": READ}, path=path)
            assert answer.status == read
            new = await gateway.post({"model": MODEL, "messages": [READ[3]]}, path=path)
            assert new.status == asked
            if asked == 400:
                error = (await new.json())["error"]
                assert (error["param"], "text only" in error["message"]) == (
                    "messages[0].content[0].type",
                    True,
                )


async def test_images_take_no_memory_while_a_request_waits_to_be_rendered(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []

    async def noting(context: Any, scope: Any, receive: Any, size: int, work: Callable[[], Any]) -> Any:
        waited.append(size)
        return await in_turn(context, scope, receive, size, work)

    monkeypatch.setattr(answering, "in_turn", noting)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (3 << 20)}}
    text = {"type": "text", "text": "x" * 100_000}
    messages = [*READ[:3], {"role": "user", "content": [image, text]}]
    await gateway.post({"model": MODEL, "messages": messages})
    assert 100_000 < waited[0] < 101_000
