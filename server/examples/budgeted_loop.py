"""An agent loop that stays within a budget of tokens and never changes what it has sent.

The conversation only grows at its end, so the server finds each prompt in its prefix cache up to what the
last step has added. Three things would change its beginning, and are left alone: instructions, the list of
tools (`tool_choice` "none" takes it out of the prompt), and results that were already sent. So results are
cut before they are sent, and where the budget ends a message asks for the answer.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openai import OpenAI

# Tokens that the conversation keeps free for the answer; the longest result, and room that is of use.
ANSWER_TOKENS = 1_000
MOST_RESULT_BYTES = 6_000
LEAST_ROOM_BYTES = 1_000
# The text of results may have more tokens a byte than the conversation had so far, and a short conversation
# says little of it. English has 0.25 tokens a byte, code 0.3.
MARGIN = 1.5
LEAST_RATE = 0.4
ANSWER_NOW = "There is no more room for results. Answer now from what you have read, without calling tools."

# Returns the server's answer to a conversation.
Ask = Callable[[Sequence[Mapping[str, Any]]], Any]


@dataclass(frozen=True)
class Tool:
    """A function for the model, and its declaration."""

    run: Callable[..., str]
    declaration: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.declaration["function"]["name"])


@dataclass
class Spent:
    """Tokens that the requests of one question took; `longest` is the longest prompt with its answer."""

    requests: int = 0
    prompt: int = 0
    cached: int = 0
    answer: int = 0
    longest: int = 0

    def add(self, usage: Any) -> None:
        """Add the usage of one request."""
        details = getattr(usage, "prompt_tokens_details", None)
        self.requests += 1
        self.prompt += usage.prompt_tokens
        self.cached += (details and details.cached_tokens) or 0
        self.answer += usage.completion_tokens
        self.longest = max(self.longest, usage.prompt_tokens + usage.completion_tokens)


class NoAnswerError(Exception):
    """The budget or the number of requests ended before the model answered."""


def declared(name: str, description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    """A tool that takes all of `properties`. `strict`: its arguments follow the schema, by construction."""
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    function = {"name": name, "description": description, "parameters": parameters, "strict": True}
    return {"type": "function", "function": function}


def asking(client: OpenAI, model: str, tools: Sequence[Tool], *, answer_tokens: int = ANSWER_TOKENS) -> Ask:
    """Return what asks a server. Declarations are made once, so that they are the same in every request."""
    declarations: list[Any] = [tool.declaration for tool in tools]

    def ask(messages: Sequence[Mapping[str, Any]]) -> Any:
        conversation: list[Any] = list(messages)
        return client.chat.completions.create(
            model=model, messages=conversation, tools=declarations, temperature=0, max_tokens=answer_tokens
        )

    return ask


def answered(
    ask: Ask,
    messages: list[dict[str, Any]],
    tools: Sequence[Tool],
    *,
    budget: int,
    most_requests: int = 30,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[str, Spent]:
    """Return the model's answer and what it took. `messages` receive all calls and results, at their end.

    `budget`: tokens of the longest prompt with its answer. Raises `NoAnswerError`.
    """
    by_name = {tool.name: tool for tool in tools}
    spent = Spent()
    asked_to_answer = False
    while spent.requests < most_requests:
        completion = ask(messages)
        spent.add(completion.usage)
        message = completion.choices[0].message
        if not message.tool_calls:
            return message.content or "", spent
        if asked_to_answer:
            raise NoAnswerError(f"the model goes on calling at the end of its budget of {budget:,} tokens")
        messages.append(message.model_dump(exclude_none=True))
        room = room_for_results(messages, completion.usage, budget=budget)
        most = min(room // len(message.tool_calls), MOST_RESULT_BYTES)
        for call in message.tool_calls:
            result = shortened(result_of(by_name, call), most)
            room -= len(result.encode())
            report(f"{call.function.name} {call.function.arguments} -> {len(result.encode())} bytes")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        if room < LEAST_ROOM_BYTES:
            messages.append({"role": "user", "content": ANSWER_NOW})
            asked_to_answer = True
    raise NoAnswerError(f"no answer after {most_requests} requests")


def room_for_results(messages: Sequence[Mapping[str, Any]], usage: Any, *, budget: int) -> int:
    """Return the bytes that results may have, by the tokens a byte that the conversation had so far."""
    tokens = usage.prompt_tokens + usage.completion_tokens
    sent_bytes = sum(len(json.dumps(message, ensure_ascii=False).encode()) for message in messages)
    tokens_per_byte = min(max(MARGIN * tokens / sent_bytes, LEAST_RATE), 1.0)
    return max(int((budget - tokens - ANSWER_TOKENS) / tokens_per_byte), 0)


def result_of(tools: Mapping[str, Tool], call: Any) -> str:
    """Return the text for the model: the result of the called function, or its error."""
    try:
        return tools[call.function.name].run(**json.loads(call.function.arguments))
    except KeyError:
        return f"error: there is no tool {call.function.name!r}"
    except (OSError, TypeError, ValueError) as error:
        return f"error: {error}"


def shortened(text: str, most_bytes: int) -> str:
    """Cut a text behind its last whole line within `most_bytes`, and say so."""
    encoded = text.encode()
    if len(encoded) <= most_bytes:
        return text
    note = "\n[cut: ask for less]"
    kept = encoded[: max(most_bytes - len(note), 0)].decode(errors="ignore")
    return kept[: kept.rfind("\n") + 1 or len(kept)].rstrip("\n") + note
