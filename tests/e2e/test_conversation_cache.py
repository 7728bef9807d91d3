"""What is found in the prefix cache: a client's own turns, whole; nothing of another client's."""

import json
from typing import Any

import openai
import pytest

from serval_testkit.weather_tool import WEATHER_TOOL

pytestmark = pytest.mark.engine

TOOLS = [WEATHER_TOOL]
RESULT = json.dumps({"city": "Tokyo", "forecast": "rainy", "temp_c": 12})


def with_next_turn(messages: list[Any], message: Any) -> list[Any]:
    """The conversation after the model's `message`: a result for each of its calls, or else thanks."""
    calls = message.tool_calls or ()
    results: list[Any] = [{"role": "tool", "tool_call_id": call.id, "content": RESULT} for call in calls]
    thanks = [{"role": "user", "content": "Thanks!"}]
    return [*messages, message.model_dump(exclude_none=True), *(results or thanks)]


def assert_covers(later: Any, earlier: Any) -> None:
    """`later` reused prompt and answer of `earlier`, and nothing that `earlier` did not have.

    The token that ends a turn is sampled last; whether it went through the model once more, and so into the
    cache, is up to the engine's scheduling.
    """
    turn = earlier.prompt_tokens + earlier.completion_tokens
    assert later.prompt_tokens > turn
    assert later.prompt_tokens_details.cached_tokens in (turn - 1, turn)


def client_of(server: Any, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0, timeout=300)


def test_each_turn_finds_the_one_before_in_the_cache(server: Any) -> None:
    """History renders as the tokens that the model wrote."""
    client = client_of(server, server.api_key)
    model = client.models.list().data[0].id

    def ask(messages: list[Any], **options: Any) -> Any:
        return client.chat.completions.create(
            model=model, messages=messages, tools=TOOLS, temperature=0, max_tokens=400, **options
        )

    # No other test asks this, so what is cached comes from this conversation.
    messages: list[Any] = [
        {"role": "user", "content": "Compare the weather in Tokyo and Madrid for the next 4 days."}
    ]
    calls = ask(messages, tool_choice="required")
    assert calls.choices[0].finish_reason == "tool_calls"

    messages = with_next_turn(messages, calls.choices[0].message)
    answer = ask(messages)
    assert_covers(answer.usage, calls.usage)

    messages = with_next_turn(messages, answer.choices[0].message)
    assert_covers(ask(messages).usage, answer.usage)


def test_another_clients_prompt_is_not_found_in_the_cache(server: Any) -> None:
    # No other test says this.
    messages: list[Any] = [{"role": "user", "content": "Say: nobody else has ever said this to a serval"}]

    def usage(key: str) -> Any:
        client = client_of(server, key)
        model = client.models.list().data[0].id
        return client.chat.completions.create(model=model, messages=messages, temperature=0).usage

    def cached_tokens(key: str) -> int:
        return int(usage(key).prompt_tokens_details.cached_tokens)

    prompt_tokens = usage(server.api_key).prompt_tokens
    # Its last token goes through the model in any case.
    assert cached_tokens(server.api_key) == prompt_tokens - 1
    # Not even what all prompts begin with: this client has never asked before.
    assert cached_tokens(server.other_key) == 0
    assert cached_tokens(server.other_key) == prompt_tokens - 1
