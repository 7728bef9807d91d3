"""Conversation with a model through the `openai` client: streamed answers, calls, and their results."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import openai
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageFunctionToolCall

from serval.errors import ServalError
from serval.talk.tools import Tool, find_tool

# A model that calls tools for ever is stopped here, and the user asked again.
MAX_ROUNDS = 16


class ServerRefusedError(ServalError):
    """The server could not be reached, or answered with an error."""


class Display(Protocol):
    """Receives a conversation as it goes on."""

    def text(self, piece: str) -> None:
        """Receive a piece of the answer."""

    def reasoning(self, piece: str) -> None:
        """Receive a piece of the model's reasoning."""

    def call(self, name: str, arguments: str) -> None:
        """Receive a call of a tool, before it is made."""

    def result(self, text: str) -> None:
        """Receive the result of a call."""

    def end(self, finish_reason: str) -> None:
        """Receive the end of one answer."""

    def ask_for_result(self, name: str) -> str:
        """Ask the user for the result of a call that no function answers."""


@dataclass
class Conversation:
    """Messages so far, and how to get the next. `usage` is that of the last answer."""

    client: openai.OpenAI
    model: str
    display: Display
    tools: Sequence[Tool] = ()
    messages: list[dict[str, Any]] = field(default_factory=list)
    usage: CompletionUsage | None = None

    def ask(self, question: str) -> None:
        """Send `question`, and the results of calls until the model answers in words.

        Raises `ServerRefusedError`. The question and what followed it are then forgotten.
        """
        kept = len(self.messages)
        self.messages.append({"role": "user", "content": question})
        try:
            for _ in range(MAX_ROUNDS):
                calls = self._answer()
                if not calls:
                    return
                for call in calls:
                    self._make(call)
        except BaseException as error:
            del self.messages[kept:]
            if isinstance(error, openai.APIError):
                raise _refused(error, self.client) from error
            raise

    def _answer(self) -> list[ChatCompletionMessageFunctionToolCall]:
        """Get one answer of the model, and return its calls."""
        state = ChatCompletionStreamState()
        for chunk in self._chunks():
            state.handle_chunk(chunk)
            for delta in (choice.delta for choice in chunk.choices):
                if delta.content:
                    self.display.text(delta.content)
                reasoning = (delta.model_extra or {}).get("reasoning_content")
                if reasoning:
                    self.display.reasoning(reasoning)
        answer = state.get_final_completion()
        (choice,) = answer.choices
        self.usage = answer.usage
        self.messages.append(choice.message.to_dict(exclude_unset=True))
        self.display.end(choice.finish_reason or "")
        if choice.finish_reason != "tool_calls":
            return []
        return [
            call
            for call in choice.message.tool_calls or []
            if isinstance(call, ChatCompletionMessageFunctionToolCall)
        ]

    def _chunks(self) -> Iterator[ChatCompletionChunk]:
        request: dict[str, Any] = {"model": self.model, "messages": self.messages}
        if self.tools:
            request["tools"] = [tool.declaration for tool in self.tools]
        with self.client.chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}
        ) as stream:
            yield from stream

    def _make(self, call: ChatCompletionMessageFunctionToolCall) -> None:
        """Make a call, and add its result to the messages."""
        name, arguments = call.function.name, call.function.arguments
        self.display.call(name, arguments)
        tool = find_tool(self.tools, name)
        if tool is None:
            result = f'{{"error": "there is no tool {name}"}}'
        elif tool.call is None:
            result = self.display.ask_for_result(name)
        else:
            result = tool.call(arguments)
        self.display.result(result)
        self.messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def served_model(client: openai.OpenAI) -> str:
    """Return the first model that the server offers. Raises `ServerRefusedError`."""
    try:
        models = client.models.list().data
    except openai.APIError as error:
        raise _refused(error, client) from error
    if not models:
        raise ServerRefusedError(f"{client.base_url} offers no model to this key")
    return models[0].id


def _refused(error: openai.APIError, client: openai.OpenAI) -> ServerRefusedError:
    if isinstance(error, openai.APIConnectionError):
        return ServerRefusedError(
            f"no server at {client.base_url}: start one with `serval serve`, or name it with --url"
        )
    message = error.body.get("message") if isinstance(error.body, dict) else None
    status = f"{error.status_code}: " if isinstance(error, openai.APIStatusError) else ""
    return ServerRefusedError(f"the server answered {status}{message or error.message}")
