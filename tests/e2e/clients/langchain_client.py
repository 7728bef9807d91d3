"""Agent's use of LangChain's `ChatOpenAI`, reported as one JSON object."""

import json
import os
from typing import Any, Literal

import openai
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

QUESTION = "What is Serval?"
WEATHER = "What is the weather in Paris for the next 3 days?"


class Capital(BaseModel):
    """A capital."""

    capital: Literal["Paris", "Rome"]


@tool
def get_weather(city: str, days: int) -> str:
    """Get the weather forecast for a city."""
    return f"{city}: sunny for {days} days"


def model(name: str = "longcat-flash-lite-demo", **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=name,
        base_url=os.environ["SERVAL_BASE_URL"],
        api_key=os.environ["SERVAL_API_KEY"],
        temperature=0,
        max_retries=0,
        timeout=600,
        **options,
    )


def called(call: Any) -> dict[str, Any]:
    return {"name": call["name"], "arguments": call["args"]}


def total(chunks: Any) -> Any:
    first, *others = chunks
    return sum(others, start=first)


chat = model()
agent = chat.bind_tools([get_weather])
structured = model(max_tokens=300).with_structured_output(Capital, method="json_schema", strict=True)
told: dict[str, Any] = {
    "text": chat.invoke(QUESTION).content,
    "streamed": total(chat.stream(QUESTION)).content,
    "call": called(agent.invoke(WEATHER).tool_calls[0]),
    "streamed_call": called(total(agent.stream(WEATHER)).tool_calls[0]),
    "structured": structured.invoke("Hello").model_dump(),
}
try:
    model("none-such").invoke(QUESTION)
except openai.NotFoundError as error:
    told["error"] = {"status": error.status_code, "code": error.code, "param": error.param}
pieces = chat.stream("Tell me a story.")
next(pieces)
pieces.close()
told["after_abort"] = model(max_tokens=8).invoke(QUESTION).content
print(json.dumps(told))
