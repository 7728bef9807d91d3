"""Agent's use of the newest `anthropic` package, reported as one JSON object."""

import json
import os
from typing import Any, Literal

import anthropic
from pydantic import BaseModel

MODEL = "longcat-flash-lite-demo"
QUESTION = "What is Serval?"
WEATHER = "What is the weather in Paris for the next 3 days?"


class Capital(BaseModel):
    capital: Literal["Paris", "Rome"]


client = anthropic.Anthropic(
    base_url=os.environ["SERVAL_BASE_URL"].removesuffix("/v1"),
    api_key=os.environ["SERVAL_API_KEY"],
    max_retries=0,
    timeout=600,
)
parameters = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
description = "Get the weather forecast for a city."
tools: Any = [{"name": "get_weather", "description": description, "input_schema": parameters, "strict": True}]


def asking(content: str, **options: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    # The newest package has no argument for the temperature.
    sampling = {"extra_body": {"temperature": 0}}
    return {"model": MODEL, "max_tokens": 300, "messages": messages, **sampling, **options}


def called(answer: Any) -> dict[str, Any]:
    assert answer.stop_reason == "tool_use"
    (call,) = (block for block in answer.content if block.type == "tool_use")
    return {"name": call.name, "arguments": call.input}


whole = client.messages.create(**asking(QUESTION))
with client.messages.stream(**asking(QUESTION)) as stream:
    streamed = stream.get_final_text()
    assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens
call = client.messages.create(**asking(WEATHER, tools=tools))
with client.messages.stream(**asking(WEATHER, tools=tools)) as stream:
    streamed_call = stream.get_final_message()
structured = client.messages.parse(**asking("Hello", output_format=Capital))
try:
    client.messages.create(**asking(QUESTION) | {"model": "none-such"})
except anthropic.NotFoundError as error:
    body: Any = error.body
    failed = {"status": error.status_code, "type": body["error"]["type"]}
pieces = client.messages.create(**asking("Tell me a story.", stream=True))
next(iter(pieces))
pieces.close()
after_abort = client.messages.create(**asking(QUESTION, max_tokens=8))
assert client.messages.count_tokens(model=MODEL, messages=asking(QUESTION)["messages"]).input_tokens > 0

print(
    json.dumps(
        {
            "text": whole.content[0].text,
            "streamed": streamed,
            "call": called(call),
            "streamed_call": called(streamed_call),
            "structured": structured.parsed_output.model_dump(),
            "error": failed,
            "after_abort": after_abort.content[0].text,
        }
    )
)
