"""One task with Pydantic AI, on the Responses and the Messages API, reported as one JSON object."""

import asyncio
import json
import os
from collections.abc import AsyncIterable
from typing import Any

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

TASK = "What is the weather in Paris for the next 3 days?"
MODEL = "longcat-flash-lite-demo"
BASE_URL = os.environ["SERVAL_BASE_URL"]
API_KEY = os.environ["SERVAL_API_KEY"]


def get_weather(city: str, days: int) -> str:
    """Get the weather forecast for a city."""
    return f"{city}: sunny for {days} days"


async def read(_: Any, events: AsyncIterable[Any]) -> None:
    """Make the agent stream its requests; `run_stream` would end with the text before the first call."""
    async for _event in events:
        pass


async def answers(name: str, model: OpenAIResponsesModel | AnthropicModel) -> dict[str, str]:
    agent = Agent(model, instructions="Be brief.", tools=[get_weather])
    whole = await agent.run(TASK)
    streamed = await agent.run(TASK, event_stream_handler=read)
    return {name: whole.output, f"{name}, streamed": streamed.output}


async def main() -> None:
    openai = AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY, max_retries=0)
    anthropic = AsyncAnthropic(base_url=BASE_URL.removesuffix("/v1"), api_key=API_KEY, max_retries=0)
    on_responses = OpenAIResponsesModel(MODEL, provider=OpenAIProvider(openai_client=openai))
    on_messages = AnthropicModel(MODEL, provider=AnthropicProvider(anthropic_client=anthropic))
    told = await answers("responses", on_responses) | await answers("messages", on_messages)
    print(json.dumps({"answers": told}))


asyncio.run(main())
