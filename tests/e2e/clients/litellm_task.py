"""One task with LiteLLM, on the Responses and the Messages API, reported as one JSON object.

Needs LITELLM_LOCAL_MODEL_COST_MAP=True; without it the import downloads a list of prices.
"""

import json
import os
from collections.abc import Callable
from typing import Any

import litellm

# Hints that it prints about names of models that it does not know.
litellm.suppress_debug_info = True

TASK = "What is the weather in Paris for the next 3 days?"
MODEL = "longcat-flash-lite-demo"
BASE_URL = os.environ["SERVAL_BASE_URL"]
API_KEY = os.environ["SERVAL_API_KEY"]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
FUNCTION = {"name": "get_weather", "description": "Get the weather forecast.", "parameters": PARAMETERS}


def get_weather(city: str, days: int) -> str:
    return f"{city}: sunny for {days} days"


def task_on_responses(*, stream: bool) -> str:
    items: list[Any] = [{"role": "user", "content": TASK}]
    while True:
        answer: Any = litellm.responses(
            model=f"openai/{MODEL}",
            input=items,
            tools=[{"type": "function", **FUNCTION}],
            api_base=BASE_URL,
            api_key=API_KEY,
            stream=stream,
        )
        if stream:
            *_, last = answer
            answer = last.response
        output = [item.model_dump(exclude_none=True) for item in answer.output]
        calls = [item for item in output if item["type"] == "function_call"]
        if not calls:
            return str(answer.output_text)
        results = [
            {
                "type": "function_call_output",
                "call_id": call["call_id"],
                "output": get_weather(**json.loads(call["arguments"])),
            }
            for call in calls
        ]
        items += [*output, *results]


def task_on_messages(*, stream: bool) -> str:
    messages: list[Any] = [{"role": "user", "content": TASK}]
    while True:
        answer: Any = litellm.completion(
            model=f"anthropic/{MODEL}",
            messages=messages,
            tools=[{"type": "function", "function": FUNCTION}],
            api_base=BASE_URL.removesuffix("/v1"),
            api_key=API_KEY,
            stream=stream,
        )
        if stream:
            answer = litellm.stream_chunk_builder(list(answer))
        message = answer.choices[0].message
        if not message.tool_calls:
            return str(message.content)
        results = [
            {
                "role": "tool",
                "tool_call_id": call.id,
                "content": get_weather(**json.loads(call.function.arguments)),
            }
            for call in message.tool_calls
        ]
        messages += [message.model_dump(), *results]


def answers(name: str, task: Callable[..., str]) -> dict[str, str]:
    return {name: task(stream=False), f"{name}, streamed": task(stream=True)}


told = answers("responses", task_on_responses) | answers("messages", task_on_messages)
print(json.dumps({"answers": told}))
