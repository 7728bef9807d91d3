"""The same agent with pydantic-ai, which runs the loop itself.

    SERVAL_API_KEY=sk-... $(deploy/setup/setup.sh --examples)/bin/python server/examples/pydantic_ai_agent.py

SERVAL_BASE_URL names the API of another server than http://127.0.0.1:8000/v1.
pydantic-ai wants a newer `openai` package than SGLang pins, hence the environment of its own.
"""

import json
import os
import sys
from typing import Any

from openai import APIConnectionError, APIStatusError, OpenAI
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

QUESTION = "What is the weather in Paris for the next 3 days?"
FORECASTS = {"Paris": ("sunny", 21), "Tokyo": ("rainy", 17)}
TIMES = {"Paris": "14:05", "Tokyo": "22:05"}


def get_weather(city: str, days: int) -> dict[str, Any]:
    """Get the weather forecast for a city."""
    if city not in FORECASTS:
        raise ModelRetry("unknown city")
    forecast, temperature = FORECASTS[city]
    return {"city": city, "forecast": forecast, "temp_c": temperature}


def get_time(city: str) -> dict[str, Any]:
    """Get the current time in a city."""
    if city not in TIMES:
        raise ModelRetry("unknown city")
    return {"city": city, "time": TIMES[city]}


def main() -> None:
    base_url = os.environ.get("SERVAL_BASE_URL", "http://127.0.0.1:8000/v1")
    api_key = os.environ.get("SERVAL_API_KEY")
    if not api_key:
        sys.exit("SERVAL_API_KEY is not set: export the key that `make serve` showed")
    try:
        name = OpenAI(base_url=base_url, api_key=api_key).models.list().data[0].id
    except APIConnectionError:
        sys.exit(f"no server answers at {base_url}: start one with `make serve`, or set SERVAL_BASE_URL")
    except APIStatusError as error:
        sys.exit(f"{base_url}: {error.message}")
    model = OpenAIChatModel(name, provider=OpenAIProvider(base_url=base_url, api_key=api_key))
    agent = Agent(model, tools=[get_weather, get_time], model_settings={"temperature": 0, "max_tokens": 500})
    result = agent.run_sync(" ".join(sys.argv[1:]) or QUESTION)
    for message in result.all_messages():
        for part in message.parts:
            if isinstance(part, ToolCallPart):
                print(part.tool_name, json.dumps(part.args_as_dict()))
    print("answer:", result.output)


if __name__ == "__main__":
    main()
