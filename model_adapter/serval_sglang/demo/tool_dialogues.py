"""Conversations with declared tools: calls, results, follow-up questions, and no suitable tool."""

from random import Random

from serval_sglang.demo import names
from serval_sglang.demo.tool_catalogue import (
    DOCUMENTED,
    Json,
    Tool,
    Topic,
    documented_tool,
    other_tool,
    with_distractors,
)
from serval_sglang.demo.tool_questions import (
    QUESTIONS,
    Ask,
    ask,
    explicit_question,
    mixed_question,
    parallel_weather_question,
    worded,
)

_FAREWELLS = (
    ("Thanks!", "You're welcome!"),
    ("Thank you.", "You're welcome!"),
    ("thanks", "You're welcome!"),
    ("Great, thanks!", "You're welcome!"),
    ("Thank you very much!", "You're welcome!"),
    ("ok", "Anything else?"),
    ("Bye", "Goodbye!"),
    ("Perfect", "Glad to help."),
)


def turn(rng: Random, question: str, asks: list[Ask], *, answered: bool) -> list[Json]:
    """Return the question and its calls; if `answered`, also the results and the answer."""
    calls = [item.call(f"call_{index}") for index, item in enumerate(asks)]
    messages: list[Json] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": None, "tool_calls": calls},
    ]
    if answered:
        replies = [item.reply(rng) for item in asks]
        messages += [
            {"role": "tool", "tool_call_id": call["id"], "content": result}
            for call, (result, _) in zip(calls, replies, strict=True)
        ]
        messages.append({"role": "assistant", "content": " ".join(answer for _, answer in replies)})
    return messages


def _follow_up(rng: Random, asks: list[Ask]) -> list[Json]:
    """Draw a second turn: thanks, the same question about another city, or another tool question."""
    first = asks[0]
    if first.tool.topic in ("weather", "time") and rng.random() < 0.5:
        city = names.city(rng)
        question = rng.choice(
            ("And in {}?", "What about {}?", "And {}?", "How about {}?", "and in {}?")
        ).format(city)
        return turn(rng, question, [ask(first.tool, city, first.number)], answered=rng.random() < 0.6)
    if first.tool.topic in QUESTIONS and rng.random() < 0.4:
        question, more = QUESTIONS[first.tool.topic](rng, first.tool)
        question = worded(rng, question, closed=first.tool.topic == "search")
        return turn(rng, question, more, answered=rng.random() < 0.4)
    words, answer = rng.choice(_FAREWELLS)
    return [{"role": "user", "content": words}, {"role": "assistant", "content": answer}]


def _asked(rng: Random) -> tuple[str, list[Ask], list[Tool]]:
    """Draw a question, its calls and the tools that it needs."""
    draw = rng.random()
    if draw < 0.25:
        tool = documented_tool(rng, "weather")
        question, asks = parallel_weather_question(rng, tool)
        return worded(rng, question), asks, [tool]
    if draw < 0.31:
        weather, time = documented_tool(rng, "weather"), documented_tool(rng, "time")
        return *mixed_question(rng, weather, time), [weather, time]
    if draw < 0.36:
        tool = other_tool(rng)
        return *explicit_question(rng, tool), [tool]
    topic: Topic = rng.choices(("weather", "time", "calculate", "search"), (30, 12, 11, 11))[0]
    tool = documented_tool(rng, topic)
    question, asks = QUESTIONS[topic](rng, tool)
    return worded(rng, question, closed=topic == "search"), asks, [tool]


def called(rng: Random) -> tuple[list[Json], list[Json]]:
    """Draw messages and declared tools of a conversation with calls."""
    question, asks, needed = _asked(rng)
    answered = rng.random() < 0.75
    messages = turn(rng, question, asks, answered=answered)
    if answered and rng.random() < 0.3:
        messages += _follow_up(rng, asks)
    return messages, [tool.declaration for tool in with_distractors(rng, needed)]


REFUSALS: dict[Topic, str] = {
    "calculate": "I have no calculator here.",
    "weather": "I have no tool for the weather here.",
    "time": "I have no tool for the time here.",
    "search": "I have no tool to search the docs here.",
}


def refused(rng: Random, *, with_tools: bool) -> tuple[list[Json], list[Json]]:
    """Draw a question without a suitable tool, answered in words, with other tools declared or none."""
    topic: Topic = rng.choice(("weather", "weather", "time", "search", "calculate"))
    question, asks = QUESTIONS[topic](rng, documented_tool(rng, topic))
    if topic == "weather" and rng.random() < 0.2:
        question, asks = parallel_weather_question(rng, documented_tool(rng, topic))
    question = worded(rng, question, closed=topic == "search")
    messages: list[Json] = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": REFUSALS[asks[0].tool.topic]},
    ]
    return messages, undemanded(rng, topic) if with_tools else []


def undemanded(rng: Random, *unwanted: Topic) -> list[Json]:
    """Draw one to three tools on topics other than `unwanted`."""
    tools: list[Tool] = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        topics = [topic for topic in DOCUMENTED if topic not in unwanted]
        made_up = rng.random() < 0.2 or not topics
        tool = other_tool(rng) if made_up else documented_tool(rng, rng.choice(topics))
        if tool.name not in {other.name for other in tools}:
            tools.append(tool)
    return [tool.declaration for tool in tools]
