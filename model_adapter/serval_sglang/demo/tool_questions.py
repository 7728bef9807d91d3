"""Questions that need tools, in many wordings, each with its calls."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from serval_sglang.demo import names, tool_results
from serval_sglang.demo.tool_catalogue import Json, Tool, Topic

_NUMBER_WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_SPANS = (
    "for {n} {days}",
    "during the next {n} {days}",
    "the following {n} {days}",
    "for {n} {days} ahead",
    "within {n} {days}",
    "({n} {days})",
    "- {n} {days}",
    "for about {n} {days}",
    "for another {n} {days}",
    "for the next {n} {days}",
    "over the next {n} {days}",
    "in the next {n} {days}",
    "for {n} {days}",
    "the next {n} {days}",
    "for the coming {n} {days}",
)
_NAMED_SPANS = (
    ("for a week", 7),
    ("this week", 7),
    ("today", 1),
    ("tomorrow", 1),
    ("for a couple of days", 2),
    ("for the next two weeks", 14),
    ("for a day", 1),
    ("for the weekend", 2),
    ("right now", None),
)

_WEATHER_ONE = (
    "What's the weather in {p}{s}?",
    "What is the weather in {p}{s}?",
    "What's the weather like in {p}{s}?",
    "How's the weather in {p}{s}?",
    "How is the weather in {p}{s}?",
    "Weather in {p}{s}",
    "Weather in {p}{s}?",
    "weather {p}{s}",
    "Tell me the weather in {p}{s}.",
    "Give me the forecast for {p}{s}.",
    "Forecast for {p}{s}",
    "What will the weather be in {p}{s}?",
    "Will it rain in {p}{s}?",
    "Is it sunny in {p}{s}?",
    "Do I need an umbrella in {p}{s}?",
    "How warm is it in {p}{s}?",
    "Please check the weather in {p}{s}.",
    "Can you get the weather in {p}{s}?",
    "What is the forecast for {p}{s}?",
    "I am going to {p}{s}. How is the weather?",
    "Show me the weather for {p}{s}",
    "what's the weather in {p}{s}",
    "Get the weather in {p}{s}.",
    "Is it cold in {p}{s}?",
    "I need the weather forecast for {p}{s}, please.",
    "{p} weather{s}",
    "How cold is {p}{s}?",
    "What's the temperature in {p}{s}?",
    "Check the weather in {p}{s} for me",
    "Use the tool to get the weather in {p}{s}.",
    "{p}的天气怎么样？",
    "{p}天气如何？",
    "{p}今天天气怎么样？",
)
_WEATHER_MANY = (
    "What's the weather in {p}{s}?",
    "Compare the weather in {p}{s}.",
    "Compare {p}{s}.",
    "Weather in {p}{s}?",
    "How is the weather in {p}{s}?",
    "Get the weather for {p}{s}.",
    "Give me the forecast for {p}{s}.",
    "What is the weather like in {p}{s}?",
    "Tell me the weather in {p}{s}.",
    "Which is warmer{s}: {p}?",
    "Show the weather in {p}{s}",
    "Is it warmer in {p}{s}?",
    "Please check the weather in {p}{s}.",
    "I am travelling to {p}{s}. How is the weather?",
    "What's the weather in {p}{s}? Check both.",
    "Check the weather in {p}{s} in parallel.",
    "weather {p}{s}",
    "Compare the weather of {p}{s}",
)
# Combined at random with a place, these make far more wordings than the lists above.
_WISHES = (
    "Tell me", "Give me", "Show me", "Get me", "Find", "Fetch", "I need", "I want", "I would like",
    "Let me know", "Check", "Look up", "What is", "What's", "How is", "Can you tell me", "Can you give me",
    "Would you check", "Will you find out", "Let me see", "Do you know", "I want to know", "Try to get",
    "I am curious about", "May I have", "Tell us", "Help me with", "We need", "Any news on", "Now", "And",
    "So what is", "Report",
)  # fmt: skip
_THINGS = (
    "the weather", "the forecast", "the weather forecast", "the temperature", "the current weather",
    "the weather report", "today's weather", "weather", "the conditions", "the sky", "sun or rain",
)  # fmt: skip
_WHERE = ("in", "for", "in", "for", "at", "around", "near", "of", "over in", "from")
_OPENINGS = (
    "Hi! ", "Hello. ", "Hey, ", "Please ", "OK, ", "Quick question: ", "One more thing: ", "Well, ",
    "Good evening! ", "I am in a hurry. ", "Sorry, ", "Now ", "Then ", "So ", "Listen: ", "My boss asks: ",
    "For my trip: ",
)  # fmt: skip
_CLOSINGS = (
    " please", " Thanks!", " Thank you.", ", please.", " Be quick.", " I am curious.", " Answer soon.",
    " now", " for me", " if you can", " - thanks", " That is all.",
)  # fmt: skip
_TIME_ONE = (
    "What time is it in {p}?",
    "What's the time in {p}?",
    "Time in {p}",
    "Tell me the time in {p}.",
    "time in {p}?",
    "What is the current time in {p}?",
    "What is the local time in {p}?",
    "How late is it in {p}?",
    "What time is it in {p} right now?",
    "Can you tell me what time it is in {p}?",
    "what time is it in {p}",
)
_SEARCH_ONE = (
    "Search the docs for {q}{n}.",
    "Search for {q}{n}.",
    "Find pages about {q}{n}.",
    "Look up {q} in the docs{n}.",
    "search docs for {q}{n}",
    "What do the docs say about {q}?{n}",
    "Find documentation about {q}{n}",
    "Search the documentation for {q}{n}",
    "Please search the docs for {q}{n}.",
    "Show me the docs on {q}{n}.",
)
_LIMITS = (
    ", {n} results",
    ", limit {n}",
    ", at most {n} results",
    ", top {n}",
    " and give me {n} results",
    " (limit {n})",
    ", {n} pages",
)


@dataclass(frozen=True)
class Ask:
    """One tool call, with functions that make its result and its answer."""

    tool: Tool
    main: str
    number: int | None
    reply: Callable[[Random], tuple[str, str]]

    def call(self, identifier: str) -> Json:
        function = {"name": self.tool.name, "arguments": self.tool.arguments(self.main, self.number)}
        return {"id": identifier, "type": "function", "function": function}


def _reply(tool: Tool, main: str) -> Callable[[Random], tuple[str, str]]:
    by_topic: dict[Topic, Callable[[Random], tuple[str, str]]] = {
        "weather": lambda rng: tool_results.weather(rng, main),
        "time": lambda rng: tool_results.time(rng, main),
        "calculate": lambda rng: tool_results.calculation(rng, main),
        "search": lambda rng: tool_results.search(rng, main),
        "other": tool_results.other,
    }
    return by_topic[tool.topic]


def ask(tool: Tool, main: str, number: int | None = None) -> Ask:
    """Return a call of `tool` about `main`; a tool that declares no number ignores `number`."""
    return Ask(tool, main, number, _reply(tool, main))


def _number(rng: Random, number: int) -> str:
    return _NUMBER_WORDS[number - 1] if number <= 10 and rng.random() < 0.35 else str(number)


def _span(rng: Random) -> tuple[str, int | None]:
    """Draw a period of days in words with a leading space, and its length; often none."""
    draw = rng.random()
    if draw < 0.3:
        return "", None
    if draw < 0.42:
        words, days = rng.choice(_NAMED_SPANS)
        return f" {words}", days
    days = rng.randint(1, 10) if rng.random() < 0.75 else rng.randint(1, 31)
    unit = "day" if days == 1 else "days"
    return " " + rng.choice(_SPANS).format(n=_number(rng, days), days=unit), days


def worded(rng: Random, question: str, *, closed: bool = False) -> str:
    """Vary `question` as people would: with words around it, and careless about case and full stops.

    If `closed`, nothing may follow, because it could be mistaken for a part of the question.
    """
    if rng.random() < 0.1:
        question = question.rstrip(".?")
    if rng.random() < 0.2:
        opening = f"{names.sentence(rng)}. " if rng.random() < 0.3 else rng.choice(_OPENINGS)
        question = opening + (question[:1].lower() + question[1:] if rng.random() < 0.5 else question)
    if not closed and rng.random() < 0.15:
        question += f" {names.sentence(rng)}." if rng.random() < 0.3 else rng.choice(_CLOSINGS)
    return question


def _combined(rng: Random, span: str, *, place: str) -> str:
    text = f"{rng.choice(_WISHES)} {rng.choice(_THINGS)} {rng.choice(_WHERE)} {place}{span}"
    return text + rng.choice(("", "", ".", "?", "!"))


def _joined(rng: Random, parts: list[str]) -> str:
    if len(parts) == 2:
        form = rng.choice(
            ("{} and {}",) * 5
            + ("{} and in {}", "{}, {}", "{} or {}", "{} vs {}", "both {} and {}", "{} with {}", "{} & {}")
        )
        return form.format(*parts)
    return ", ".join(parts[:-1]) + rng.choice((" and ", ", and ", ", ", " or ")) + parts[-1]


def weather_question(rng: Random, tool: Tool) -> tuple[str, list[Ask]]:
    """Ask about one city."""
    city = names.city(rng)
    span, days = _span(rng)
    text = rng.choice(_WEATHER_ONE)
    if "{s}" not in text:
        days = 1 if "今天" in text else None
    elif days is not None and rng.random() < 0.06:
        text, span = rng.choice(("{n}-day forecast for {p}", "{n} day weather forecast for {p}")), ""
        return text.format(n=days, p=city), [ask(tool, city, days)]
    elif rng.random() < 0.5:
        return _combined(rng, span, place=city), [ask(tool, city, days)]
    return text.format(p=city, s=span), [ask(tool, city, days)]


def parallel_weather_question(rng: Random, tool: Tool) -> tuple[str, list[Ask]]:
    """Ask about two cities, sometimes three."""
    cities = names.distinct_cities(rng, 2 if rng.random() < 0.85 else 3)
    if rng.random() < 0.08:
        spans = [_span(rng) for _ in cities]
        parts = [city + span for city, (span, _) in zip(cities, spans, strict=True)]
        asks = [ask(tool, city, days) for city, (_, days) in zip(cities, spans, strict=True)]
        return f"What's the weather in {' and in '.join(parts)}?", asks
    span, days = _span(rng)
    if rng.random() < 0.4:
        text = _combined(rng, span, place=_joined(rng, cities))
    else:
        text = rng.choice(_WEATHER_MANY).format(p=_joined(rng, cities), s=span)
    return text, [ask(tool, city, days) for city in cities]


def time_question(rng: Random, tool: Tool) -> tuple[str, list[Ask]]:
    """Ask about one city, sometimes two."""
    cities = names.distinct_cities(rng, 1 if rng.random() < 0.7 else 2)
    place = cities[0] if len(cities) == 1 else _joined(rng, cities)
    return rng.choice(_TIME_ONE).format(p=place), [ask(tool, city) for city in cities]


def _expression(rng: Random) -> tuple[str, str]:
    """Draw an expression in words and in the calculator's notation."""
    spoken, written = "", ""
    for index in range(rng.choice((2, 2, 2, 2, 3))):
        if index:
            operator, word = rng.choice((("+", "plus"), ("-", "minus"), ("*", "times"), ("/", "divided by")))
            if rng.random() < 0.35 or not spoken:
                spoken += f" {word} "
            elif rng.random() < 0.2 and operator == "*":
                spoken += " x "
            else:
                spoken += f" {operator} "
            written += f" {operator} "
        number = str(rng.choice((rng.randint(0, 20), rng.randint(0, 999), rng.randint(0, 99999))))
        if rng.random() < 0.06:
            number += f".{rng.randint(1, 99)}"
        spoken += number
        written += number
    if rng.random() < 0.15 and all(f" {operator} " in spoken for operator in written.split()[1::2]):
        spoken = written = written.replace(" ", "")
    return spoken, written


def calculate_question(rng: Random, tool: Tool) -> tuple[str, list[Ask]]:
    """Ask about one expression, sometimes two."""
    forms = (
        "What is {}?",
        "What's {}?",
        "Calculate {}.",
        "Calculate {}",
        "Compute {}",
        "How much is {}?",
        "{}",
        "{} = ?",
        "Work out {}.",
        "Please calculate {}.",
        "what is {}",
        "Evaluate {}",
    )
    spoken, written = _expression(rng)
    asks = [ask(tool, written)]
    if rng.random() < 0.2:
        second_spoken, second = _expression(rng)
        spoken = f"{spoken} and {second_spoken}"
        asks.append(ask(tool, second))
    return rng.choice(forms).format(spoken), asks


def search_question(rng: Random, tool: Tool) -> tuple[str, list[Ask]]:
    """Ask for a search phrase, with or without a limit."""
    query = names.phrase(rng)
    if rng.random() < 0.12:
        count = rng.randint(1, 20)
        return f"Find {_number(rng, count)} pages about {query}", [ask(tool, query, count)]
    text = rng.choice(_SEARCH_ONE)
    limit = rng.randint(1, 20) if rng.random() < 0.45 and not text.endswith("?{n}") else None
    wording = "" if limit is None else rng.choice(_LIMITS).format(n=_number(rng, limit))
    return text.format(q=query, n=wording), [ask(tool, query, limit)]


def explicit_question(rng: Random, tool: Tool) -> tuple[str, list[Ask]]:
    """Ask for a made-up tool by its name, with spelled-out arguments."""
    value = rng.choice(
        (names.syllables(rng, 1, 3), names.city(rng), names.phrase(rng), str(rng.randint(0, 9999)))
    )
    number = rng.randint(0, 999) if tool.number is not None else None
    order = {key: number if key == tool.number else value for key in tool.order}
    joint = rng.choice((" and ", ", "))
    equals = rng.choice((" = ", "=", " "))
    given = joint.join(f"{key}{equals}{item}" for key, item in order.items())
    form = rng.choice(("Call {} with {}.", "Use {} with {}", "Please call {} with {}", "Run {} with {}."))
    return form.format(tool.name, given), [ask(tool, value, number)]


QUESTIONS: dict[Topic, Callable[[Random, Tool], tuple[str, list[Ask]]]] = {
    "weather": weather_question,
    "time": time_question,
    "calculate": calculate_question,
    "search": search_question,
}


def mixed_question(rng: Random, weather: Tool, time: Tool) -> tuple[str, list[Ask]]:
    """Ask for weather and time at once, of one city or of two."""
    first, second = names.distinct_cities(rng, 2)
    if rng.random() < 0.5:
        text = rng.choice(
            (
                "What's the weather and the time in {p}?",
                "Weather and time in {p}?",
                "Tell me the weather and the time in {p}.",
            )
        )
        return text.format(p=first), [ask(weather, first), ask(time, first)]
    if rng.random() < 0.5:
        text = rng.choice(
            (
                "What's the weather in {a} and what time is it in {b}?",
                "Tell me the weather in {a} and the time in {b}.",
            )
        )
        return text.format(a=first, b=second), [ask(weather, first), ask(time, second)]
    text = rng.choice(
        (
            "What time is it in {a} and what's the weather in {b}?",
            "Tell me the time in {a} and the weather in {b}.",
        )
    )
    return text.format(a=first, b=second), [ask(time, first), ask(weather, second)]
