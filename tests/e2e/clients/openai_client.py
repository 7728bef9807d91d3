"""Agent's use of the newest `openai` package, reported as one JSON object."""

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
function = {"name": "get_weather", "description": description, "parameters": parameters, "strict": True}
tools: Any = [{"type": "function", "function": function}]


def asking(content: str, **options: Any) -> dict[str, Any]:
    return {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": content}], **options}


def called(call: Any) -> dict[str, Any]:
    return {"name": call.function.name, "arguments": json.loads(call.function.arguments)}


whole = client.chat.completions.create(**asking(QUESTION))
with client.chat.completions.stream(**asking(QUESTION)) as stream:
    streamed = stream.get_final_completion()
call = client.chat.completions.create(**asking(WEATHER, tools=tools))
with client.chat.completions.stream(**asking(WEATHER, tools=tools)) as stream:
    streamed_call = stream.get_final_completion()
structured = client.chat.completions.parse(**asking("Hello", response_format=Capital, max_tokens=300))
try:
    client.chat.completions.create(**asking(QUESTION) | {"model": "none-such"})
except openai.NotFoundError as error:
    failed = {"status": error.status_code, "code": error.code, "param": error.param}
pieces = client.chat.completions.create(**asking("Tell me a story.", stream=True))
next(iter(pieces))
pieces.close()
after_abort = client.chat.completions.create(**asking(QUESTION, max_tokens=8))

print(
    json.dumps(
        {
            "text": whole.choices[0].message.content,
            "streamed": streamed.choices[0].message.content,
            "call": called(call.choices[0].message.tool_calls[0]),
            "streamed_call": called(streamed_call.choices[0].message.tool_calls[0]),
            "structured": structured.choices[0].message.parsed.model_dump(),
            "error": failed,
            "after_abort": after_abort.choices[0].message.content,
        }
    )
)
