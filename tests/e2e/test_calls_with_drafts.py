"""The gateway before an engine with drafts: the same calls and usage in fewer passes, nothing left behind.

Calls of tools that the demo model was not trained on, with strict schemas, are mostly text that the grammar
forces. `pytest -s` prints how many passes they take.
"""

import json
import re
import time
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from serval_testkit.weather_tool import WEATHER_TOOL

pytestmark = pytest.mark.engine


def strict_tool(name: str, **properties: dict[str, Any]) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": True}}


def text(length: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": length}


def whole(minimum: int, maximum: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


ZONE = {
    "type": "object",
    "properties": {"date": text(10), "time_zone": {"enum": ["UTC", "CET", "PST"]}},
    "required": ["date", "time_zone"],
    "additionalProperties": False,
}
FLIGHT = strict_tool(
    "book_flight",
    origin=text(12),
    destination=text(12),
    cabin_class={"enum": ["economy", "premium_economy", "business", "first"]},
    passengers=whole(1, 9),
)
EVENT = strict_tool(
    "create_calendar_event",
    title=text(16),
    start=ZONE,
    attendees={"type": "array", "items": text(8), "minItems": 1, "maxItems": 2},
)
MORTGAGE = strict_tool(
    "calculate_mortgage_payment",
    loan_amount=whole(1000, 999_999),
    interest_rate_percent=whole(1, 12),
    term_years=whole(5, 40),
)
CASES: dict[str, tuple[list[Any], str]] = {
    "one tool, text": ([FLIGHT], "Book a flight from Oslo to Lima."),
    "one tool, object and list": ([EVENT], "Meet Ann tomorrow."),
    "one tool, numbers": ([MORTGAGE], "Mortgage for 200000 at 4 percent over 30 years"),
    "three tools": ([FLIGHT, EVENT, MORTGAGE], "Book a flight from Rome to Oslo."),
    "two tools": ([EVENT, MORTGAGE], "Meet Bob on Friday."),
}
# Calls of tools that the demo model and its layer were trained on.
KNOWN: dict[str, tuple[list[Any], str]] = {
    "get_weather": (
        [strict_tool("get_weather", city=text(20), days=whole(1, 14))],
        "What's the weather in Paris for 3 days?",
    ),
    "get_time": ([strict_tool("get_time", city=text(20))], "What time is it in Tokyo?"),
    "calculate": ([strict_tool("calculate", expression=text(20))], "What is 12 * 34?"),
    "search_docs": (
        [strict_tool("search_docs", query=text(20), limit=whole(1, 20))],
        "Search the docs for rate limits, 5 results",
    ),
}
TRAINED: tuple[list[Any], str] = ([WEATHER_TOOL], "What is the weather in Paris for the next 3 days?")


@dataclass(frozen=True)
class Answer:
    """Streamed answer: calls by name and arguments, and what it cost."""

    calls: tuple[tuple[str, str], ...]
    content: str
    finish_reason: str
    usage: tuple[int, int, int]

    @property
    def told(self) -> Any:
        return self.calls, self.content, self.finish_reason, self.usage


def ask(server: Any, tools: list[Any], question: str, **options: Any) -> Answer:
    client = openai.OpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=300)
    chunks = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": question}],
        tools=tools,
        temperature=0,
        max_tokens=300,
        stream=True,
        stream_options={"include_usage": True},
        **options,
    )
    calls: dict[int, list[str]] = {}
    content, finish_reason, usage = "", "", (0, 0, 0)
    for chunk in chunks:
        if chunk.usage is not None:
            used = chunk.usage
            usage = (used.prompt_tokens, used.completion_tokens, used.total_tokens)
        for choice in chunk.choices:
            content += choice.delta.content or ""
            finish_reason = choice.finish_reason or finish_reason
            for piece in choice.delta.tool_calls or ():
                call = calls.setdefault(piece.index, ["", ""])
                call[0] += piece.function.name or ""
                call[1] += piece.function.arguments or ""
    told = tuple((name, arguments) for name, arguments in calls.values())
    return Answer(told, content, finish_reason, usage)


def forced(server: Any, name: str) -> Answer:
    tools, question = (CASES | KNOWN)[name]
    return ask(server, tools, question, tool_choice="required", parallel_tool_calls=False)


def metric(server: Any, name: str, *, of_gateway: bool = False) -> float:
    page = httpx.get(f"{server.root_url if of_gateway else server.engine_url}/metrics", timeout=60).text
    found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", page, re.MULTILINE)
    return sum(float(value) for value in found)


def passes(server: Any) -> float:
    return metric(server, "serval_engine_verifications_total")


@pytest.mark.parametrize("name", CASES)
def test_streamed_forced_call_is_the_same_with_drafts(
    server: Any, server_with_drafts: Any, name: str
) -> None:
    plain, drafted = forced(server, name), forced(server_with_drafts, name)
    assert drafted.told == plain.told
    assert [bool(json.loads(arguments)) for _, arguments in drafted.calls] == [True]
    assert drafted.usage[0] + drafted.usage[1] == drafted.usage[2]


@pytest.mark.parametrize("question", [TRAINED[1], "Hello", "Weather in Rome and in Oslo tomorrow?"])
def test_streamed_answer_is_the_same_with_drafts(server: Any, server_with_drafts: Any, question: str) -> None:
    plain = ask(server, TRAINED[0], question)
    before = passes(server_with_drafts)
    drafted = ask(server_with_drafts, TRAINED[0], question)
    assert drafted.told == plain.told
    # A piece holds what an engine has made since the last one, so their number depends on the machine's load.
    assert passes(server_with_drafts) - before < drafted.usage[1]


def passes_without_and_with_grammar(server: Any, name: str) -> tuple[float, float]:
    """Return the passes of a call with the layer's drafts alone, and with the grammar's beside them."""
    switch = server.folder / "off"
    counts, answers = [], []
    for off in (True, False):
        if off:
            switch.touch()
        else:
            switch.unlink()
        before = passes(server)
        answers.append(forced(server, name))
        counts.append(passes(server) - before)
    assert answers[0].told == answers[1].told
    print(name, f"{answers[0].usage[1]} tokens; passes: MTP {counts[0]:.0f}, with grammar {counts[1]:.0f}")
    return counts[0], counts[1]


@pytest.mark.parametrize(("names", "most"), [(CASES, 0.7), (KNOWN, 1.0)], ids=["other tools", "known tools"])
def test_grammar_saves_passes_inside_calls(
    server_with_drafts: Any, names: dict[str, Any], most: float
) -> None:
    counts = [passes_without_and_with_grammar(server_with_drafts, name) for name in names]
    without, with_grammar = (sum(column) for column in zip(*counts, strict=True))
    print(f"together {without:.0f} and {with_grammar:.0f}, saved: {1 - with_grammar / without:.0%}")
    assert with_grammar <= most * without


@pytest.mark.parametrize("in_call", [True, False])
def test_client_that_leaves_inside_a_run_of_drafts_frees_everything(
    server_with_drafts: Any, *, in_call: bool
) -> None:
    server = server_with_drafts
    request: dict[str, Any] = {
        "model": model_of(server),
        "messages": [{"role": "user", "content": "What is Serval?"}],
        "stream": True,
        # No end of turn and no </longcat_arg_value>, so that it goes on to the end of the context.
        "logit_bias": {"2": -100, "14": -100},
    }
    if in_call:
        request["tools"] = [strict_tool("note", text={"type": "string"})]
        request["tool_choice"] = "required"
    # Not 0: it counts the request for the metrics.
    in_flight = metric(server, "serval_requests_in_flight", of_gateway=True)
    before = metric(server, "sglang:num_aborted_requests_total")
    right = metric(server, "serval_engine_accepted_tokens_total")
    url = f"{server.base_url}/chat/completions"
    with httpx.stream("POST", url, json=request, headers=headers(server), timeout=120) as response:
        assert response.status_code == 200, response.read()
        lines = (line for line in response.iter_lines() if '"content":"' in line or '"arguments":"' in line)
        for _ in range(4):
            next(lines)
    eventually(lambda: metric(server, "sglang:num_aborted_requests_total") > before)
    eventually(lambda: metric(server, "serval_engine_accepted_tokens_total") > right)
    eventually(lambda: metric(server, "serval_requests_in_flight", of_gateway=True) <= in_flight)
    # SGLang writes these with the next batch, so ask for one.
    forced(server, "one tool, numbers")
    eventually(lambda: metric(server, "sglang:num_running_reqs") == 0)
    eventually(lambda: metric(server, "sglang:kv_used_tokens") == 0)


def model_of(server: Any) -> str:
    models = httpx.get(f"{server.base_url}/models", headers=headers(server), timeout=60).json()
    return str(models["data"][0]["id"])


def headers(server: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {server.api_key}"}


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(0.2)
