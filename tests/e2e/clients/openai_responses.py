"""Agent's use of the Responses API with the newest `openai` package, reported as one JSON object."""

import json
import os
from typing import Any, Literal

import openai
from pydantic import BaseModel

MODEL = "longcat-flash-lite-demo"
QUESTION = "What is Serval?"
WEATHER = "What is the weather in Paris for the next 3 days?"


class Capital(BaseModel):
    capital: Literal["Paris", "Rome"]


client = openai.OpenAI(
    base_url=os.environ["SERVAL_BASE_URL"], api_key=os.environ["SERVAL_API_KEY"], max_retries=0, timeout=600
)
parameters = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
description = "Get the weather forecast for a city."
tools: Any = [
    {
        "type": "function",
        "name": "get_weather",
        "description": description,
        "parameters": parameters,
        "strict": True,
    }
]


def asking(content: str, **options: Any) -> dict[str, Any]:
    return {"model": MODEL, "temperature": 0, "input": content, **options}


def streamed(content: str, **options: Any) -> Any:
    with client.responses.stream(**asking(content, **options)) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        answer = stream.get_final_response()
    assert answer.output_text == text
    return answer


def called(answer: Any) -> dict[str, Any]:
    (call,) = (item for item in answer.output if item.type == "function_call")
    return {"name": call.name, "arguments": json.loads(call.arguments)}


whole = client.responses.create(**asking(QUESTION))
streamed_whole = streamed(QUESTION)
assert streamed_whole.usage.output_tokens == whole.usage.output_tokens
call = client.responses.create(**asking(WEATHER, tools=tools))
streamed_call = streamed(WEATHER, tools=tools)
structured = client.responses.parse(**asking("Hello", text_format=Capital, max_output_tokens=300))
try:
    client.responses.create(**asking(QUESTION) | {"model": "none-such"})
except openai.NotFoundError as error:
    failed = {"status": error.status_code, "code": error.code, "param": error.param}
events = client.responses.create(**asking("Tell me a story.", stream=True))
next(event for event in events if event.type == "response.output_text.delta")
events.close()
after_abort = client.responses.create(**asking(QUESTION, max_output_tokens=8))

print(
    json.dumps(
        {
            "text": whole.output_text,
            "streamed": streamed_whole.output_text,
            "call": called(call),
            "streamed_call": called(streamed_call),
            "structured": structured.output_parsed.model_dump(),
            "error": failed,
            "after_abort": after_abort.output_text,
        }
    )
)
