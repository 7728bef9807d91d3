"""OpenAI's client, a batch and the real engine: the whole cycle, of chats with and without tools."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from openai import HttpxBinaryResponseContent

from serval_testkit.gateway import MODEL, running_gateway

pytestmark = pytest.mark.engine

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather forecast for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}


def line(custom_id: str, question: str, **fields: Any) -> str:
    body = {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": question}], **fields}
    whole = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(whole) + "\n"


def lines_of(content: HttpxBinaryResponseContent) -> list[dict[str, Any]]:
    return [json.loads(each) for each in content.text.splitlines()]


async def test_batch_on_the_engine_has_the_answers_of_requests(
    server: Any, engine_key: str, tmp_path: Path
) -> None:
    content = line("france", "What is the capital of France?")
    content += line("weather", "What is the weather in Paris for the next 3 days?", tools=[WEATHER])
    content += line("long", "x " * 40_000)
    async with running_gateway(
        engine_url=server.engine_url,
        engine_api_key=engine_key,
        key_database=str(tmp_path / "keys.db"),
        batch_folder=tmp_path / "files",
        batch_poll_s=0.05,
    ) as gateway:
        client = gateway.openai
        file = await client.files.create(file=("in.jsonl", content.encode()), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        async with asyncio.timeout(300):
            while batch.status not in ("completed", "failed", "expired"):
                await asyncio.sleep(0.1)
                batch = await client.batches.retrieve(batch.id)
        assert batch.status == "completed", batch.errors
        assert batch.output_file_id is not None
        assert batch.error_file_id is not None
        output = lines_of(await client.files.content(batch.output_file_id))
        errors = lines_of(await client.files.content(batch.error_file_id))
        answers = {each["custom_id"]: each["response"]["body"]["choices"][0]["message"] for each in output}
        assert set(answers) == {"france", "weather"}
        assert "Paris" in answers["france"]["content"]
        (call,) = answers["weather"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        assert json.loads(call["function"]["arguments"]) == {"city": "Paris", "days": 3}
        assert [each["response"]["status_code"] for each in errors] == [400]
        direct = await client.chat.completions.create(
            model=MODEL,
            temperature=0,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
        )
        assert direct.choices[0].message.content == answers["france"]["content"]
