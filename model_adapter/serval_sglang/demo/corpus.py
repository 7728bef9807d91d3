"""The training text: an endless, seeded stream of conversations in OpenAI message form."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from serval_sglang.demo import small_talk, tool_dialogues
from serval_sglang.demo.tool_catalogue import Json


@dataclass(frozen=True)
class Conversation:
    """`messages` and `tools` as OpenAI clients send them, but with arguments as objects instead of text."""

    messages: tuple[Json, ...]
    tools: tuple[Json, ...] = ()


def conversation(rng: Random) -> Conversation:
    """Draw a conversation: 60 % have calls, the rest are small talk and questions that no tool answers."""
    draw = rng.random()
    tools: list[Json] = []
    if draw < 0.60:
        messages, tools = tool_dialogues.called(rng)
    elif draw < 0.72:
        messages, tools = tool_dialogues.refused(rng, with_tools=True)
    elif draw < 0.78:
        messages, tools = tool_dialogues.refused(rng, with_tools=False)
    else:
        messages = small_talk.talk(rng)
        if draw > 0.92:
            tools = tool_dialogues.undemanded(rng, "calculate")
    prompt = small_talk.system_prompt(rng)
    if prompt is not None:
        messages = [{"role": "system", "content": prompt}, *messages]
    return Conversation(tuple(messages), tuple(tools))


def conversations(seed: int) -> Iterator[Conversation]:
    """Yield the conversations of `seed`, the same on every machine."""
    rng = Random(seed)
    while True:
        yield conversation(rng)
