"""Tool results as users write them (plain text or JSON), and the sentences that answer from them.

The answers follow one rule, which a small model can learn for results it has never seen: text is repeated;
every member of a JSON object is repeated as "key value", except the city and a few well-known keys.
"""

import json
from random import Random
from typing import Any

from serval_sglang.demo import names

_SKIES = (
    "sunny", "cloudy", "rain", "light rain", "heavy rain", "snow", "fog", "windy", "clear", "partly cloudy",
    "thunderstorms", "showers", "overcast", "mostly sunny", "drizzle", "hail",
    "hot and dry", "cold and clear",
)  # fmt: skip
_PLACE_KEYS = ("city", "location", "place")
_SILENT_KEYS = (
    "forecast", "conditions", "condition", "weather", "summary", "description", "time", "local_time",
    "result", "results", "value", "answer", "titles", "title",
)  # fmt: skip
_UNITS = {
    "temp_c": " °C",
    "temperature_c": " °C",
    "temp_f": " °F",
    "temperature": " degrees",
    "temp": " degrees",
}


def _scalar(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _member(key: str, value: object) -> str:
    text = spoken(value)
    if key in _SILENT_KEYS:
        return text
    if key in _UNITS:
        return text if isinstance(value, str) else text + _UNITS[key]
    return f"{key} {text}"


def spoken(value: object) -> str:
    """Return the part of an answer that repeats a result, by the rule in the module's docstring."""
    if isinstance(value, dict):
        return ", ".join(_member(key, item) for key, item in value.items() if key not in _PLACE_KEYS)
    if isinstance(value, list):
        separator = "; " if value and isinstance(value[0], dict) else ", "
        return separator.join(spoken(item) for item in value)
    return _scalar(value)


def closed(text: str) -> str:
    """Return `text` with a final full stop."""
    return text if text.endswith((".", "!", "?")) else text + "."


def _encode(rng: Random, value: object) -> str:
    compact = rng.random() < 0.15
    # A client may escape non-ASCII text. The place is known from the call; the model cannot read the rest.
    escaped = spoken(value).isascii() and rng.random() < 0.3
    return json.dumps(value, ensure_ascii=escaped, separators=(",", ":") if compact else None)


def _temperature(rng: Random) -> int | float:
    return rng.randint(-15, 40) if rng.random() < 0.8 else rng.randint(-150, 400) / 10


def _sky(rng: Random) -> str:
    return rng.choice(_SKIES) if rng.random() < 0.8 else names.syllables(rng, 1, 3)


def _weather_text(rng: Random, city: str) -> str:
    sky, degrees = _sky(rng), _temperature(rng)
    return rng.choice(
        (
            f"{sky}, {degrees}C",
            f"{sky}, {degrees} °C",
            f"{sky} {degrees}°C",
            f"{degrees} degrees and {sky}",
            sky,
            f"{sky.capitalize()}, {degrees} degrees.",
            f"It is {sky} in {city}, {degrees}C.",
            f"{city}: {sky}, {degrees}C",
            f"{degrees}C",
            names.sentence(rng),
            f"{sky} and {_sky(rng)}",
            f"{sky} all {rng.randint(1, 9)} days",
        )
    )


def _weather_members(rng: Random) -> dict[str, Any]:
    sky_key = rng.choice(
        ("forecast", "forecast", "conditions", "condition", "weather", "summary", "description")
    )
    warmth_key = rng.choice(("temp_c", "temp_c", "temperature_c", "temperature", "temp", "temp_f"))
    members: list[tuple[str, Any]] = [(sky_key, _sky(rng)), (warmth_key, _temperature(rng))]
    if rng.random() < 0.08:
        members[1] = (warmth_key, f"{_temperature(rng)}{rng.choice(('C', '°C', ' C', 'F'))}")
    if rng.random() < 0.12:
        members[0] = (sky_key, [_sky(rng) for _ in range(rng.randint(1, 3))])
    if rng.random() < 0.3:
        members.append((rng.choice(("humidity", "wind_kph", "wind", "rain_mm", "days")), rng.randint(1, 99)))
    if rng.random() < 0.15:
        members.append((names.identifier(rng), rng.choice((names.syllables(rng, 1, 2), rng.randint(0, 999)))))
    if rng.random() < 0.2:
        members.pop(rng.randrange(2))
    if rng.random() < 0.25:
        rng.shuffle(members)
    return dict(members)


def weather(rng: Random, city: str) -> tuple[str, str]:
    """Draw a result of the weather tool, and its answer."""
    draw = rng.random()
    if draw < 0.05:
        reason = rng.choice(
            ("unknown city", "not found", "service unavailable", "timeout", names.sentence(rng))
        )
        text = rng.choice((_encode(rng, {"error": reason}), f"Error: {reason}"))
        return text, f"I could not get the weather in {city}: {closed(reason)}"
    if draw < 0.35:
        text = _weather_text(rng, city)
        return text, f"The weather in {city}: {closed(text)}"
    if draw < 0.42:
        days = [{"day": day + 1} | _weather_members(rng) for day in range(rng.randint(1, 3))]
        value: Any = {"city": city, "forecast": days} if rng.random() < 0.7 else days
    else:
        value = _weather_members(rng)
        if rng.random() < 0.65:
            value = {rng.choice(("city", "city", "city", "location", "place")): city} | value
    return _encode(rng, value), f"The weather in {city}: {closed(spoken(value))}"


def time(rng: Random, city: str) -> tuple[str, str]:
    """Draw a result of the time tool, and its answer."""
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    if rng.random() < 0.2:
        clock = f"{rng.randint(1, 12)}:{rng.randint(0, 59):02d} {rng.choice(('am', 'pm', 'AM', 'PM'))}"
    if rng.random() < 0.4:
        return clock, f"The time in {city}: {closed(clock)}"
    value = {rng.choice(("time", "time", "local_time")): clock}
    if rng.random() < 0.6:
        value = {"city": city} | value
    if rng.random() < 0.2:
        value["timezone"] = rng.choice(("UTC", "CET", "JST", "EST", "PST"))
    return _encode(rng, value), f"The time in {city}: {closed(spoken(value))}"


def calculation(rng: Random, expression: str) -> tuple[str, str]:
    """Draw a result of the calculator (any number, since the model only repeats it), and its answer."""
    number = rng.choice((rng.randint(0, 99), rng.randint(0, 99999), rng.randint(-999, 9999) / 10))
    if rng.random() < 0.06:
        reason = rng.choice(("division by zero", "syntax error", "overflow"))
        return _encode(rng, {"error": reason}), f"I could not calculate {expression}: {closed(reason)}"
    answer = f"{expression} = {number}."
    if rng.random() < 0.5:
        return str(number), answer
    value: dict[str, Any] = {rng.choice(("result", "result", "value", "answer")): number}
    return _encode(rng, value), answer


def search(rng: Random, query: str) -> tuple[str, str]:
    """Draw a result of the documentation search, and its answer."""
    if rng.random() < 0.08:
        return rng.choice(("[]", '{"results": []}', "")), f"I found nothing about {query}."
    titles = [names.phrase(rng).capitalize() for _ in range(rng.randint(1, 3))]
    draw = rng.random()
    if draw < 0.3:
        text = rng.choice((names.sentence(rng), ", ".join(titles), titles[0]))
        return text, f"I found: {closed(text)}"
    value: Any = titles
    if draw < 0.6:
        value = [{"title": title} for title in titles]
    if draw > 0.75:
        value = {"results": value}
    return _encode(rng, value), f"I found: {closed(spoken(value))}"


def other(rng: Random) -> tuple[str, str]:
    """Draw a result of a made-up tool, and its answer."""
    if rng.random() < 0.4:
        text = rng.choice(("ok", "done", names.sentence(rng), str(rng.randint(0, 9999))))
        return text, f"The tool says: {closed(text)}"
    value = {names.identifier(rng): rng.choice((names.syllables(rng, 1, 3), rng.randint(0, 999)))}
    return _encode(rng, value), f"The tool says: {closed(spoken(value))}"
