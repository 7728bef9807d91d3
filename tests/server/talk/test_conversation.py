"""A conversation of `serval chat` with the gateway in front of the stand-in engine."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from serval.talk.commands import CommandError, run_command
from serval.talk.conversation import MAX_ROUNDS, Conversation, ServerRefusedError, served_model
from serval.talk.tools import Tool
from serval_testkit.gateway import API_KEY, MODEL, RunningGateway, running_gateway

CALL = (
    "<longcat_tool_call>add\n"
    "<longcat_arg_key>a</longcat_arg_key>\n<longcat_arg_value>2</longcat_arg_value>\n"
    "</longcat_tool_call>\n"
)
DECLARATION = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two.\nMore.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


class Recorder:
    """Keeps what a display would show."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, ...]] = []

    def text(self, piece: str) -> None:
        self.shown.append(("text", piece))

    def reasoning(self, piece: str) -> None:
        self.shown.append(("reasoning", piece))

    def call(self, name: str, arguments: str) -> None:
        self.shown.append(("call", name, arguments))

    def result(self, text: str) -> None:
        self.shown.append(("result", text))

    def end(self, finish_reason: str) -> None:
        self.shown.append(("end", finish_reason))

    def ask_for_result(self, name: str) -> str:
        return f"typed result of {name}"


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    async with running_gateway() as running:
        yield running


def client_of(gateway: RunningGateway, key: str = API_KEY) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0)


@pytest.fixture
def display() -> Recorder:
    return Recorder()


@pytest.fixture
def conversation(gateway: RunningGateway, display: Recorder) -> Conversation:
    return Conversation(client_of(gateway), MODEL, display)


async def ask(conversation: Conversation, question: str) -> None:
    """Ask in a thread: the client of `serval chat` blocks."""
    await asyncio.to_thread(conversation.ask, question)


async def test_ask_streams_the_answer_and_keeps_both_messages(
    gateway: RunningGateway, conversation: Conversation, display: Recorder
) -> None:
    gateway.engine.will_say("Par", "is.", delay_s=0.1)
    await ask(conversation, "What is the capital of France?")
    assert display.shown == [("text", "Par"), ("text", "is."), ("end", "stop")]
    assert [(each["role"], each["content"]) for each in conversation.messages] == [
        ("user", "What is the capital of France?"),
        ("assistant", "Paris."),
    ]
    assert conversation.usage is not None
    assert conversation.usage.completion_tokens == 2


async def test_ask_makes_calls_and_sends_their_results(
    gateway: RunningGateway, conversation: Conversation, display: Recorder
) -> None:
    conversation.tools = [Tool(DECLARATION, lambda arguments: f"4, of {arguments}")]
    gateway.engine.will_say(CALL)
    gateway.engine.will_say("It is 4.")
    await ask(conversation, "2 + 2?")
    assert [each for each in display.shown if each != ("end", "tool_calls")] == [
        ("call", "add", '{"a": 2}'),
        ("result", '4, of {"a": 2}'),
        ("text", "It is 4."),
        ("end", "stop"),
    ]
    assert [each["role"] for each in conversation.messages] == ["user", "assistant", "tool", "assistant"]
    call = conversation.messages[1]["tool_calls"][0]
    assert conversation.messages[2]["tool_call_id"] == call["id"]


async def test_ask_lets_the_user_type_the_result_of_a_declared_tool(
    gateway: RunningGateway, conversation: Conversation, display: Recorder
) -> None:
    conversation.tools = [Tool(DECLARATION)]
    gateway.engine.will_say(CALL)
    await ask(conversation, "2 + 2?")
    assert ("result", "typed result of add") in display.shown


async def test_ask_ends_a_model_that_calls_for_ever(
    gateway: RunningGateway, conversation: Conversation, display: Recorder
) -> None:
    conversation.tools = [Tool(DECLARATION, lambda _: "again")]
    for _ in range(MAX_ROUNDS + 1):
        gateway.engine.will_say(CALL)
    await ask(conversation, "2 + 2?")
    assert len(gateway.engine.requests) == MAX_ROUNDS


async def test_ask_forgets_a_question_that_the_server_refused(
    gateway: RunningGateway, conversation: Conversation
) -> None:
    gateway.engine.will_say("Hello")
    await ask(conversation, "Hi")
    gateway.engine.will_say(fault="http_error", status=500)
    with pytest.raises(ServerRefusedError, match="the server answered 500"):
        await ask(conversation, "and this?")
    assert [each["role"] for each in conversation.messages] == ["user", "assistant"]


async def test_served_model_is_the_first_or_an_error_that_helps(gateway: RunningGateway) -> None:
    assert await asyncio.to_thread(served_model, client_of(gateway)) == MODEL
    with pytest.raises(ServerRefusedError, match=r"the server answered 401: [A-Z]"):
        await asyncio.to_thread(served_model, client_of(gateway, key="sk-wrong"))
    nowhere = openai.OpenAI(base_url="http://127.0.0.1:1/v1", api_key="k", max_retries=0)
    with pytest.raises(ServerRefusedError, match="start one with `serval serve`"):
        await asyncio.to_thread(served_model, nowhere)


async def test_commands_show_tools_and_tokens_and_save_and_reset(
    gateway: RunningGateway, conversation: Conversation, tmp_path: Path
) -> None:
    conversation.messages.append({"role": "system", "content": "Be short."})
    assert run_command(conversation, "/tokens") == "no answer yet"
    assert run_command(conversation, "/tools").startswith("none")
    conversation.tools = [Tool(DECLARATION)]
    assert run_command(conversation, "/tools") == "add  Add two.  (you give the results)"
    conversation.tools = [Tool(DECLARATION, str)]
    assert run_command(conversation, "/tools") == "add  Add two."
    gateway.engine.will_say("Hel", "lo", cached_tokens=3)
    await ask(conversation, "Hi")
    assert run_command(conversation, "/tokens").endswith("3 of them from the cache; answer 2")
    path = tmp_path / "talk.json"
    assert run_command(conversation, f"/save {path}") == f"saved 3 messages to {path}"
    assert json.loads(path.read_text()) == conversation.messages
    run_command(conversation, "/reset")
    assert [each["role"] for each in conversation.messages] == ["system"]
    assert "/save" in run_command(conversation, "/help")


@pytest.mark.parametrize(
    ("line", "problem"),
    [("/nothing", "/help"), ("/save", "name a file"), ("/save /nowhere/talk.json", "cannot write")],
)
def test_run_command_says_what_is_wrong(line: str, problem: str, display: Recorder) -> None:
    conversation = Conversation(openai.OpenAI(api_key="k"), "m", display)
    with pytest.raises(CommandError, match=problem):
        run_command(conversation, line)
