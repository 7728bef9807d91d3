"""Tool declarations in OpenAI form: the documented tools in many wordings, and made-up ones."""

from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from serval_sglang.demo import names

Json = dict[str, Any]
Topic = Literal["weather", "time", "calculate", "search", "other"]


@dataclass(frozen=True)
class Tool:
    """A declared tool, with the names of its parameters.

    `main` is the required parameter (city, expression, query), `number` the integer beside it (days, limit)
    or None, `order` the parameters in declared order. If `number_required`, a call must give the number;
    `fixed` are arguments that every call must give.
    """

    topic: Topic
    declaration: Json
    name: str
    main: str
    number: str | None
    order: tuple[str, ...]
    number_required: bool
    fixed: tuple[tuple[str, str], ...] = ()

    def arguments(self, main: str, number: int | None) -> Json:
        """Return a call's arguments in declared order; a `number` of None is omitted, or 1 if required."""
        given: Json = {self.main: main, **dict(self.fixed)}
        if self.number is not None and (number is not None or self.number_required):
            given[self.number] = 1 if number is None else number
        return {key: given[key] for key in self.order if key in given}


@dataclass(frozen=True)
class _Topic:
    names: tuple[str, ...]
    main: tuple[str, ...]
    number: tuple[str, ...]
    descriptions: tuple[str, ...]
    main_descriptions: tuple[str, ...]
    number_descriptions: tuple[str, ...] = ()


# The first name and parameters are documented; the others teach the model to read the declaration.
_TOPICS: dict[Topic, _Topic] = {
    "weather": _Topic(
        ("get_weather", "get_forecast", "get_current_weather", "weather", "weather_lookup"),
        ("city", "location", "place"),
        ("days", "days", "num_days"),
        (
            "Get weather",
            "Get the weather",
            "Get the weather forecast for a city.",
            "Weather forecast for a city",
            "Returns the weather for the given city.",
            "Get the current weather in a given location",
            "Look up the weather.",
            "Forecast for the next days in a city.",
            "The weather in a city for some days.",
            "Fetch the current weather and forecast of a city",
            "Get current temperature for a given location.",
        ),
        (
            "The city",
            "City name",
            "The name of the city",
            "The city, e.g. Paris",
            "Name of the city.",
            "The city and state, e.g. San Francisco, CA",
            "City and country e.g. Bogotá, Colombia",
        ),
        (
            "Number of days",
            "How many days to forecast",
            "Days of forecast",
            "The number of days.",
            "Days ahead",
        ),
    ),
    "time": _Topic(
        ("get_time", "get_current_time", "current_time", "clock"),
        ("city", "location", "place"),
        (),
        (
            "Get the time",
            "Get the current time in a city.",
            "Current local time of a city",
            "Local time.",
            "Returns the current time for the given city.",
            "What time it is in a city",
        ),
        ("The city", "City name", "The name of the city", "The city, e.g. Tokyo"),
    ),
    "calculate": _Topic(
        ("calculate", "calculator", "evaluate_expression", "calc"),
        ("expression", "expr", "input"),
        (),
        (
            "Calculate",
            "Evaluate an arithmetic expression.",
            "A calculator",
            "Do arithmetic",
            "Compute a result.",
            "Evaluates a mathematical expression and returns the result",
        ),
        ("The expression", "Expression to evaluate", "e.g. 2 + 3 * 4", "An arithmetic expression."),
    ),
    "search": _Topic(
        ("search_docs", "search", "search_documentation", "find_docs"),
        ("query", "q", "text"),
        ("limit", "limit", "top_k"),
        (
            "Search the docs",
            "Search the documentation.",
            "Find pages in the documentation",
            "Full-text search",
            "Searches the documentation and returns the best pages",
        ),
        ("The query", "What to search for", "Search terms", "Search query."),
        ("Number of results", "How many results to return", "Maximum number of pages.", "At most this many"),
    ),
}

DOCUMENTED: tuple[Topic, ...] = ("weather", "time", "calculate", "search")


def _property(rng: Random, kind: str, descriptions: tuple[str, ...], *, described: bool) -> Json:
    schema: Json = {"type": kind}
    if described and descriptions:
        wording = names.sentence(rng) if rng.random() < 0.15 else rng.choice(descriptions)
        schema["description"] = wording
    if kind == "integer" and rng.random() < 0.08:
        schema |= {"minimum": 1, "maximum": rng.choice((5, 7, 10, 14, 20))}
    return schema


def _object_schema(rng: Random, properties: Json, required: list[str]) -> Json:
    schema: Json = {"type": "object", "properties": properties}
    if required or rng.random() < 0.5:
        schema["required"] = required
    draw = rng.random()
    if draw < 0.1:
        schema["additionalProperties"] = False
    elif draw < 0.14:
        schema = {key: schema[key] for key in ("properties", "required", "type") if key in schema}
    elif draw < 0.18:
        schema = {key: schema[key] for key in ("type", "required", "properties") if key in schema}
    return schema


def tool_declaration(name: str, description: str, parameters: Json) -> Json:
    """Return the declaration of a function; `parameters` is a JSON Schema."""
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def documented_tool(rng: Random, topic: Topic) -> Tool:
    """Draw a documented tool, mostly with its documented name, in one of many wordings."""
    words = _TOPICS[topic]
    name = words.names[0] if rng.random() < 0.65 else rng.choice(words.names)
    main = words.main[0] if rng.random() < 0.75 else rng.choice(words.main)
    number = None
    if words.number and rng.random() < 0.9:
        number = words.number[0] if rng.random() < 0.9 else rng.choice(words.number)
    described = rng.random() < 0.35
    properties = {main: _property(rng, "string", words.main_descriptions, described=described)}
    if number is not None:
        properties[number] = _property(rng, "integer", words.number_descriptions, described=described)
        if rng.random() < 0.06:
            properties = dict(reversed(properties.items()))
    fixed: tuple[tuple[str, str], ...] = ()
    if topic == "weather" and rng.random() < 0.12:
        units = ["celsius", "fahrenheit"]
        properties["unit"] = {"type": "string", "enum": units if rng.random() < 0.8 else units[::-1]}
        fixed = (("unit", properties["unit"]["enum"][0]),) if rng.random() < 0.3 else ()
    number_required = number is not None and rng.random() < 0.35
    draw = rng.random()
    description = rng.choice(words.descriptions) if draw < 0.8 else names.sentence(rng) if draw < 0.95 else ""
    required = [
        key for key in properties if key == main or key in dict(fixed) or (key == number and number_required)
    ]
    declaration = tool_declaration(name, description, _object_schema(rng, properties, required))
    return Tool(topic, declaration, name, main, number, tuple(properties), number_required, fixed)


def other_tool(rng: Random) -> Tool:
    """Draw a made-up tool with up to two parameters, to be ignored or called by its name."""
    verbs = [
        "get", "list", "send", "create", "delete", "update", "open", "close", "start", "stop",
        "convert", "translate", "book", "play", "read",
    ]  # fmt: skip
    nouns = [
        "email", "note", "task", "order", "user", "file", "image", "song", "ticket", "room", "report",
        "invoice", "message", "event", "stock",
    ]  # fmt: skip
    verb = rng.choice(verbs) if rng.random() < 0.7 else names.syllables(rng, 1, 2)
    noun = rng.choice(nouns) if rng.random() < 0.7 else names.syllables(rng, 1, 2)
    main = names.identifier(rng)
    number = names.identifier(rng) if rng.random() < 0.4 else None
    if number == main:
        number = None
    properties: Json = {main: {"type": "string"}}
    if number is not None:
        properties[number] = {"type": "integer"}
    description = rng.choice((f"{verb.capitalize()} the {noun}.", f"{verb} {noun}", names.sentence(rng)))
    required = [key for key in properties if key == main or rng.random() < 0.5]
    parameters = _object_schema(rng, properties, required)
    declaration = tool_declaration(f"{verb}_{noun}", description, parameters)
    number_required = number in required
    return Tool("other", declaration, f"{verb}_{noun}", main, number, tuple(properties), number_required)


def with_distractors(rng: Random, needed: list[Tool]) -> list[Tool]:
    """Return `needed` and zero to three tools on other topics, shuffled, without repeated names."""
    tools = list(needed)
    taken = {tool.topic for tool in needed}
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
        free = [topic for topic in DOCUMENTED if topic not in taken]
        extra = documented_tool(rng, rng.choice(free)) if free and rng.random() < 0.75 else other_tool(rng)
        taken.add(extra.topic)
        if extra.name not in {tool.name for tool in tools}:
            tools.append(extra)
    rng.shuffle(tools)
    return tools
