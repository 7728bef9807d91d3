"""Score a checkpoint on held-out names and words: `python -m serval_sglang.demo.evaluate [DIRECTORY]`."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random

from tokenizers import Tokenizer

from serval_sglang.checkpoint import load_reference
from serval_sglang.demo import checkpoint_directory, small_talk, tool_dialogues
from serval_sglang.demo.corpus import Conversation
from serval_sglang.demo.names import HELD_OUT_CITIES, syllables
from serval_sglang.demo.scoring import score
from serval_sglang.demo.tool_catalogue import Json, Tool, Topic, documented_tool, with_distractors
from serval_sglang.demo.tool_dialogues import turn
from serval_sglang.demo.tool_questions import Ask, ask

SEED = 20_000_000
TEMPERATURE = 0.7

# None of these wordings is in the corpus.
_ONE_CITY = (
    "What's the weather in {p} for {n} days?",
    "Could you tell me the weather in {p} for the next {n} days?",
    "I'd like the forecast for {p} for {n} days",
    "Please give me the weather in {p} over {n} days.",
    "hey, what will the weather be like in {p} for the next {n} days?",
    "Weather forecast for {p}, {n} days",
    "Can you check the weather in {p} for the coming {n} days please?",
    "How's the weather looking in {p} for {n} days?",
)
_ONE_CITY_NO_SPAN = (
    "What's the weather like in {p} right now?",
    "Could you tell me the weather in {p}?",
    "Hi! What's the weather in {p}?",
    "I'd like to know the weather in {p}.",
    "Please look up the weather in {p}.",
    "Is it raining in {p}?",
)
_TWO_CITIES = (
    "Compare the weather in {p} and {q} for the next {n} days",
    "What's the weather in {p} and {q} for {n} days?",
    "Please compare the weather in {p} and in {q} for {n} days.",
    "Could you get the weather for {p} and {q} for {n} days?",
    "I need the forecast for {p} and {q} over the next {n} days",
    "Weather for {p} and {q}, {n} days please",
)
_TIME = (
    "Could you tell me what time it is in {p}?",
    "what's the current time in {p}?",
    "Tell me the local time in {p}",
)
_SUM = (
    "What is {a} + {b}?",
    "Could you calculate {a} * {b}?",
    "Please compute {a} - {b}",
    "What's {a} divided by {b}?",
)
_SEARCH = (
    "Search the docs for {q}",
    "Could you search the documentation for {q}?",
    "Find docs about {q}, limit 5",
)


def _city(rng: Random) -> str:
    return rng.choice(HELD_OUT_CITIES) if rng.random() < 0.7 else syllables(rng, 2, 3).capitalize()


def _days(rng: Random) -> tuple[str, int]:
    days = rng.randint(2, 10)
    words = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    return (words[days - 2] if rng.random() < 0.3 else str(days)), days


def _conversation(rng: Random, messages: list[Json], tools: Sequence[Tool]) -> Conversation:
    prompt = small_talk.system_prompt(rng)
    system = [] if prompt is None else [{"role": "system", "content": prompt}]
    return Conversation((*system, *messages), tuple(tool.declaration for tool in tools))


def _called(
    rng: Random, question: str, asks: list[Ask], tool: Tool, *, answered: bool = False
) -> Conversation:
    return _conversation(rng, turn(rng, question, asks, answered=answered), with_distractors(rng, [tool]))


def one_city(rng: Random) -> Conversation:
    """Ask about a city and a number of days."""
    tool, city, (words, days) = documented_tool(rng, "weather"), _city(rng), _days(rng)
    return _called(rng, rng.choice(_ONE_CITY).format(p=city, n=words), [ask(tool, city, days)], tool)


def one_city_no_span(rng: Random) -> Conversation:
    """Ask about a city without days."""
    tool, city = documented_tool(rng, "weather"), _city(rng)
    return _called(rng, rng.choice(_ONE_CITY_NO_SPAN).format(p=city), [ask(tool, city)], tool)


def two_cities(rng: Random, *, answered: bool = False) -> Conversation:
    """Ask for two calls in one turn."""
    tool, (words, days) = documented_tool(rng, "weather"), _days(rng)
    first, second = _city(rng), _city(rng)
    question = rng.choice(_TWO_CITIES).format(p=first, q=second, n=words)
    return _called(rng, question, [ask(tool, first, days), ask(tool, second, days)], tool, answered=answered)


def other_tools(rng: Random) -> Conversation:
    """Ask for the time, a calculation or a search."""
    topic: Topic = rng.choice(("time", "calculate", "search"))
    tool = documented_tool(rng, topic)
    if topic == "time":
        city = _city(rng)
        return _called(rng, rng.choice(_TIME).format(p=city), [ask(tool, city)], tool)
    if topic == "calculate":
        left, right, kind = rng.randint(10, 9999), rng.randint(10, 9999), rng.randrange(4)
        question = _SUM[kind].format(a=left, b=right)
        return _called(rng, question, [ask(tool, f"{left} {'+*-/'[kind]} {right}")], tool)
    query, kind = f"{syllables(rng, 1, 2)} {syllables(rng, 1, 2)}", rng.randrange(3)
    return _called(rng, _SEARCH[kind].format(q=query), [ask(tool, query, 5 if kind == 2 else None)], tool)


def one_result(rng: Random) -> Conversation:
    """Ask for the answer from one result."""
    tool, city = documented_tool(rng, "weather"), _city(rng)
    question = rng.choice(_ONE_CITY_NO_SPAN).format(p=city)
    return _called(rng, question, [ask(tool, city)], tool, answered=True)


def two_results(rng: Random) -> Conversation:
    """Ask for the answer from two results."""
    return two_cities(rng, answered=True)


def documented_question(rng: Random) -> Conversation:
    """Ask a documented question, with or without declared tools."""
    fact = rng.choice(small_talk.FACTS)
    tools = [documented_tool(rng, "weather")] if rng.random() < 0.4 else []
    return _conversation(rng, small_talk.exchange(fact.questions[0], fact.answer), tools)


def no_suitable_tool(rng: Random) -> Conversation:
    """Ask about the weather without a tool for it."""
    messages, _ = tool_dialogues.refused(rng, with_tools=False)
    messages[0]["content"] = rng.choice(_ONE_CITY_NO_SPAN).format(p=_city(rng))
    messages[1]["content"] = tool_dialogues.REFUSALS["weather"]
    return Conversation(tuple(messages), tuple(tool_dialogues.undemanded(rng, "weather")))


# Cases with the turns that they score: the calls, or the answer from their results.
CASES: dict[str, tuple[Callable[[Random], Conversation], slice]] = {
    "one call: city and days": (one_city, slice(None)),
    "one call: city alone": (one_city_no_span, slice(None)),
    "two parallel calls": (two_cities, slice(None)),
    "time, calculation, search": (other_tools, slice(None)),
    "answer from one result": (one_result, slice(1, None)),
    "answer from two results": (two_results, slice(1, None)),
    "documented questions": (documented_question, slice(None)),
    "no suitable tool": (no_suitable_tool, slice(None)),
}


def evaluate(directory: Path, *, count: int) -> Iterator[tuple[str, float, float, list[str]]]:
    """Yield each case's name, share of exact turns, mean chance if sampled, and missed turns."""
    model = load_reference(directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for number, (name, (make, scored)) in enumerate(CASES.items()):
        rng = Random(SEED + number)
        items = [make(rng) for _ in range(count)]
        turns = [
            turn
            for all_turns in score(model, tokenizer, items, temperature=TEMPERATURE)
            for turn in all_turns[scored]
        ]
        exact = sum(turn.exact for turn in turns) / len(turns)
        chance = sum(turn.chance for turn in turns) / len(turns)
        yield name, exact, chance, [turn.text for turn in turns if not turn.exact]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m serval_sglang.demo.evaluate", description=__doc__)
    parser.add_argument("directory", type=Path, nargs="?", default=checkpoint_directory())
    parser.add_argument(
        "--count", type=int, default=200, help="conversations per case (default: %(default)s)"
    )
    parser.add_argument("--show-missed", action="store_true", help="print what was not written exactly")
    options = parser.parse_args(arguments)
    print(f"{'case':28} {'exact, greedy':>14} {f'sampled at {TEMPERATURE}':>15}")
    for name, exact, chance, missed in evaluate(options.directory, count=options.count):
        print(f"{name:28} {exact:14.1%} {chance:15.1%}", flush=True)
        if options.show_missed:
            print("".join(f"    {text!r}\n" for text in missed), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
