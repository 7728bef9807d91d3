"""An agent loop with the `openai` client: two tools, parallel calls, a tool that fails.

    SERVAL_API_KEY=sk-... .venv/bin/python server/examples/agent_loop.py [QUESTION]

SERVAL_BASE_URL names the API of another server than http://127.0.0.1:8000/v1.

The model asks for calls, this program makes them and sends the results back, until the model answers in
words. What a tool raises goes back as a result too: the model can only react to errors that it is told.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from openai import APIConnectionError, APIStatusError, OpenAI

QUESTION = "Compare the weather in Paris and Rome for the next 2 days."
MOST_TURNS = 6
FORECASTS = {"Paris": ("sunny", 21), "Tokyo": ("rainy", 17)}
TIMES = {"Paris": "14:05", "Tokyo": "22:05"}


def get_weather(city: str, days: int) -> dict[str, Any]:
    if city not in FORECASTS:
        raise LookupError("unknown city")
    forecast, temperature = FORECASTS[city]
    return {"city": city, "forecast": forecast, "temp_c": temperature}


def get_time(city: str) -> dict[str, Any]:
    if city not in TIMES:
        raise LookupError("unknown city")
    return {"city": city, "time": TIMES[city]}


FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {"get_weather": get_weather, "get_time": get_time}


def declared(name: str, description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    """A tool that takes all of `properties`. `strict`: its arguments follow the schema, by construction."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    function = {"name": name, "description": description, "parameters": parameters, "strict": True}
    return {"type": "function", "function": function}


TOOLS: list[Any] = [
    declared(
        "get_weather",
        "Get the weather forecast for a city.",
        city={"type": "string"},
        days={"type": "integer"},
    ),
    declared("get_time", "Get the current time in a city.", city={"type": "string"}),
]


def result_of(call: Any) -> str:
    """Return the text for the model: the result of the called function, or its error."""
    try:
        result = FUNCTIONS[call.function.name](**json.loads(call.function.arguments))
    except (LookupError, TypeError, ValueError) as error:
        result = {"error": str(error)}
    return json.dumps(result)


def run(client: OpenAI, question: str) -> str:
    """The model's answer to `question`, after all the calls it asks for."""
    model = client.models.list().data[0].id
    messages: list[Any] = [{"role": "user", "content": question}]
    for _ in range(MOST_TURNS):
        completion = client.chat.completions.create(
            model=model, messages=messages, tools=TOOLS, temperature=0, max_tokens=500
        )
        message = completion.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        # The calls go back as they came, and every one of them gets a result.
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls:
            result = result_of(call)
            print(f"{call.function.name} {call.function.arguments} -> {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    raise SystemExit(f"no answer after {MOST_TURNS} turns")


def main() -> None:
    base_url = os.environ.get("SERVAL_BASE_URL", "http://127.0.0.1:8000/v1")
    api_key = os.environ.get("SERVAL_API_KEY")
    if not api_key:
        sys.exit("SERVAL_API_KEY is not set: export the key that `make serve` showed")
    try:
        print("answer:", run(OpenAI(base_url=base_url, api_key=api_key), " ".join(sys.argv[1:]) or QUESTION))
    except APIConnectionError:
        sys.exit(f"no server answers at {base_url}: start one with `make serve`, or set SERVAL_BASE_URL")
    except APIStatusError as error:
        sys.exit(f"{base_url}: {error.message}")


if __name__ == "__main__":
    main()
