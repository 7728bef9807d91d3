"""Prefix cache: a client finds all of its own turns, and nothing of another client."""

import json
from typing import Any

import openai
import pytest

from serval_testkit.weather_tool import WEATHER_TOOL

pytestmark = pytest.mark.engine

TOOLS = [WEATHER_TOOL]
RESULT = json.dumps({"city": "Tokyo", "forecast": "rainy", "temp_c": 12})


def with_next_turn(messages: list[Any], message: Any) -> list[Any]:
    """Add the model's `message` and a reply to it: a result for each call, else thanks."""
    calls = message.tool_calls or ()
    results: list[Any] = [{"role": "tool", "tool_call_id": call.id, "content": RESULT} for call in calls]
    thanks = [{"role": "user", "content": "Thanks!"}]
    return [*messages, message.model_dump(exclude_none=True), *(results or thanks)]


def assert_covers(later: Any, earlier: Any) -> None:
    """Check that `later` reused exactly the prompt and the answer of `earlier`.

    The token that ends a turn is sampled last. It is in the cache only if the engine's scheduling put it
    through the model once more.
    """
    turn = earlier.prompt_tokens + earlier.completion_tokens
    assert later.prompt_tokens > turn
    assert later.prompt_tokens_details.cached_tokens in (turn - 1, turn)


def client_of(server: Any, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0, timeout=300)


def test_turn_finds_the_previous_one_in_the_cache(server: Any) -> None:
    """The history must render as the tokens that the model wrote."""
    client = client_of(server, server.api_key)
    model = client.models.list().data[0].id

    def ask(messages: list[Any], **options: Any) -> Any:
        return client.chat.completions.create(
            model=model, messages=messages, tools=TOOLS, temperature=0, max_tokens=400, **options
        )

    # No other test asks this, so cached tokens come from this conversation.
    messages: list[Any] = [
        {"role": "user", "content": "Compare the weather in Tokyo and Madrid for the next 4 days."}
    ]
    calls = ask(messages, tool_choice="required")
    assert calls.choices[0].finish_reason == "tool_calls"

    messages = with_next_turn(messages, calls.choices[0].message)
    answer = ask(messages)
    assert_covers(answer.usage, calls.usage)

    messages = with_next_turn(messages, answer.choices[0].message)
    response = client.chat.completions.with_raw_response.create(
        model=model, messages=messages, tools=TOOLS, temperature=0, max_tokens=400
    )
    usage = response.parse().usage
    assert_covers(usage, answer.usage)
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    found = f"{usage.prompt_tokens_details.cached_tokens}/{usage.prompt_tokens}"
    assert response.headers["x-serval-cache"] == found


def test_prompt_of_another_client_is_not_found_in_the_cache(server: Any) -> None:
    # No other test sends this prompt.
    messages: list[Any] = [{"role": "user", "content": "Say: nobody else has ever said this to a serval"}]

    def usage(key: str) -> Any:
        client = client_of(server, key)
        model = client.models.list().data[0].id
        return client.chat.completions.create(model=model, messages=messages, temperature=0).usage

    def cached_tokens(key: str) -> int:
        return int(usage(key).prompt_tokens_details.cached_tokens)

    prompt_tokens = usage(server.api_key).prompt_tokens
    # The last token of a prompt is always computed.
    assert cached_tokens(server.api_key) == prompt_tokens - 1
    # Not even the common beginning of prompts: this client has sent no request before.
    assert cached_tokens(server.other_key) == 0
    assert cached_tokens(server.other_key) == prompt_tokens - 1
