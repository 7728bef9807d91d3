"""One task with LangChain's agent, on the Responses and the Messages API, reported as one JSON object."""

import json
import os
from typing import Any

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

TASK = "What is the weather in Paris for the next 3 days?"
MODEL = "longcat-flash-lite-demo"
BASE_URL = os.environ["SERVAL_BASE_URL"]
API_KEY: Any = os.environ["SERVAL_API_KEY"]


@tool
def get_weather(city: str, days: int) -> str:
    """Get the weather forecast for a city."""
    return f"{city}: sunny for {days} days"


def answers(name: str, model: Any) -> dict[str, str]:
    agent: Any = create_agent(model, [get_weather], system_prompt="Be brief.")
    task = {"messages": [{"role": "user", "content": TASK}]}
    *_, last = agent.invoke(task)["messages"]
    nodes, pieces = [], []
    for piece, place in agent.stream(task, stream_mode="messages"):
        nodes.append(place["langgraph_node"])
        pieces.append(piece)
    after_tools = pieces[len(nodes) - nodes[::-1].index("tools") :]
    return {name: last.text, f"{name}, streamed": "".join(piece.text for piece in after_tools)}


on_responses = ChatOpenAI(
    model=MODEL, base_url=BASE_URL, api_key=API_KEY, max_retries=0, use_responses_api=True
)
on_messages: Any = ChatAnthropic(
    model_name=MODEL, base_url=BASE_URL.removesuffix("/v1"), api_key=API_KEY, max_retries=0
)
print(json.dumps({"answers": answers("responses", on_responses) | answers("messages", on_messages)}))
