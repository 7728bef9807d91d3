"""One task with `openai-agents`, on the Responses API, reported as one JSON object."""

import asyncio
import json
import os

from agents import Agent, ModelSettings, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI

TASK = "What is the weather in Paris for the next 3 days?"
set_tracing_disabled(True)


@function_tool
def get_weather(city: str, days: int) -> str:
    """Get the weather forecast for a city."""
    return f"{city}: sunny for {days} days"


async def main() -> None:
    client = AsyncOpenAI(
        base_url=os.environ["SERVAL_BASE_URL"], api_key=os.environ["SERVAL_API_KEY"], max_retries=0
    )
    agent = Agent(
        name="Forecaster",
        instructions="Be brief.",
        tools=[get_weather],
        model=OpenAIResponsesModel(model="longcat-flash-lite-demo", openai_client=client),
        model_settings=ModelSettings(temperature=0),
    )
    answers, last = {}, {}
    for automatic in (False, True):
        name = "previous response" if automatic else "whole history"
        whole = await Runner.run(agent, TASK, auto_previous_response_id=automatic, max_turns=3)
        streamed = Runner.run_streamed(agent, TASK, auto_previous_response_id=automatic, max_turns=3)
        async for _ in streamed.stream_events():
            pass
        answers |= {name: whole.final_output, f"{name}, streamed": streamed.final_output}
        last |= {name: whole.last_response_id, f"{name}, streamed": streamed.last_response_id}
    print(json.dumps({"answers": answers, "last_response_ids": last}))


asyncio.run(main())
