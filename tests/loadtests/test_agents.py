"""Driver of agents against a server in the same process, and the report of its runs."""

import asyncio
import json
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from serval.workload_files import Conversation, Spawn, Turn
from serval_load.client import Peer, prepared
from serval_load.report.agents import agents_picture, agents_table, summarise_agents
from serval_load.stand_in.http import END_OF_STREAM, STREAM_HEAD, Connection, Exchange, event, response
from serval_load.workloads.agents import Pace, drive_agents, with_pauses
from serval_load.workloads.driver import Request

Body = dict[str, Any]


def turn(text: str, **given: Any) -> Turn:
    return Turn(({"role": "user", "content": text},), **given)


class Server:
    """Answers each request with a number, in the order in which they come; `seen` are their bodies."""

    def __init__(self, *, refuses: Callable[[Body], bool] = lambda body: False) -> None:
        self.seen: list[Body] = []
        self.running = self.most_running = 0
        self._refuses = refuses

    @asynccontextmanager
    async def peer(self) -> AsyncIterator[Peer]:
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: Connection(self._handle), "127.0.0.1", 0)
        try:
            yield Peer("127.0.0.1", listening.sockets[0].getsockname()[1], "sk-test")
        finally:
            listening.close()

    def _handle(self, exchange: Exchange) -> None:
        body = json.loads(exchange.body)
        self.seen.append(body)
        if self._refuses(body):
            exchange.finish(response(b"too much", status=503))
            return
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        number = len(self.seen)
        # After the requests that were sent together.
        asyncio.get_running_loop().call_later(0.02, self._answer, exchange, number)

    def _answer(self, exchange: Exchange, number: int) -> None:
        self.running -= 1
        deltas: list[Body] = [{"reasoning_content": "hm"}, {"content": f"answer {number}"}]
        choices = [{"choices": [{"delta": delta}]} for delta in deltas]
        usage = {
            "prompt_tokens": 100, "completion_tokens": 11, "prompt_tokens_details": {"cached_tokens": 80},
        }  # fmt: skip
        ends = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}
        chunks = b"".join(event(json.dumps(chunk).encode()) for chunk in (*choices, ends))
        exchange.finish(STREAM_HEAD + chunks + event(b"[DONE]") + END_OF_STREAM)


async def replay(
    server: Server, *conversations: Conversation, agents: int = 1, **given: Any
) -> list[Request]:
    options: dict[str, Any] = {"pace": Pace(), "body": {"model": "m"}, "output_tokens": 220, **given}
    async with server.peer() as peer:
        return await drive_agents(peer, conversations, agents=agents, log=lambda line: None, **options)


def dialogue(body: Body) -> list[str]:
    return [f"{message['role'][0]}: {message['content']}" for message in body["messages"]]


async def test_agent_puts_the_answer_of_the_model_into_the_next_prompt() -> None:
    server = Server()
    found = await replay(
        server, Conversation((turn("a", output_tokens=7), turn("b"))), body={"model": "m", "seed": 1}
    )
    assert [dialogue(body) for body in server.seen] == [["u: a"], ["u: a", "a: answer 1", "u: b"]]
    assert [body["max_tokens"] for body in server.seen] == [7, 220]
    assert {(body["model"], body["seed"], body["stream"]) for body in server.seen} == {("m", 1, True)}
    assert [(one.kind, one.session, one.turn, one.complete) for one in found] == [
        ("agent", 0, 0, True),
        ("agent", 0, 1, True),
    ]
    assert {(one.prompt_tokens, one.cached_tokens, one.completion_tokens) for one in found} == {(100, 80, 11)}


async def test_agents_work_on_one_conversation_each() -> None:
    server = Server()
    conversations = [Conversation((turn(name), turn("more"))) for name in "abcd"]
    found = await replay(server, *conversations, agents=2)
    assert len(found) == 8
    assert server.most_running == 2
    firsts = [body["messages"][0]["content"] for body in server.seen]
    assert set(firsts[:4]) == {"a", "b"}
    assert set(firsts[4:]) == {"c", "d"}


async def test_subagents_run_together_before_the_next_turn() -> None:
    server = Server()
    found = await replay(
        server,
        Conversation((turn("a"), turn("b"))),
        Conversation((turn("x"), turn("y")), after=Spawn(0, 0)),
        Conversation((turn("z"),), after=Spawn(0, 0)),
    )
    news = [body["messages"][-1]["content"] for body in server.seen]
    assert news[0] == "a"
    assert set(news[1:3]) == {"x", "z"}
    assert news[3:] == ["y", "b"]
    assert server.most_running == 2
    assert [one.kind for one in found].count("subagent") == 3


async def test_refused_turn_ends_its_conversation_alone() -> None:
    server = Server(refuses=lambda body: body["messages"][0]["content"] == "bad")
    found = await replay(server, Conversation((turn("bad"), turn("b"))), Conversation((turn("c"),)))
    assert [(one.status, one.complete) for one in found] == [(503, False), (200, True)]
    assert found[0].error == "too much"


async def test_pauses_are_scaled_bounded_and_not_taken_at_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        # The reporter sleeps for 5 s.
        await sleep(seconds if seconds == 5.0 else 0)

    monkeypatch.setattr("serval_load.workloads.agents.asyncio.sleep", noted)
    conversation = Conversation((turn("a", pause_s=900), turn("b", pause_s=10), turn("c", pause_s=900)))
    paced = with_pauses([conversation], scale=0.7, longest_s=60.0)
    await replay(Server(), *paced, agents=2, pace=Pace(ramp_s=8.0))
    assert [seconds for seconds in slept if seconds != 5.0] == [0.0, 4.0, 7.0, 60.0]


async def test_no_turn_begins_after_the_end_of_the_run() -> None:
    server = Server()
    await replay(server, Conversation((turn("a"), turn("b", pause_s=0.7), turn("c"))), pace=Pace(until_s=0.6))
    assert len(server.seen) == 1


async def test_tool_results_are_sent_as_user_messages_and_a_mark_begins_the_first() -> None:
    server = Server()
    parts = [{"type": "text", "text": "tools"}]
    tool = Turn(({"role": "tool", "content": "result"},))
    first = Turn(({"role": "system", "content": parts}, {"role": "user", "content": "a"}))
    await replay(server, Conversation((first, tool)), mark="Run 2. ")
    (system, *_), (_, user, _, result) = (body["messages"] for body in server.seen)
    assert system == {"role": "system", "content": [{"type": "text", "text": "Run 2. "}, *parts]}
    assert (user["content"], result) == ("a", {"role": "user", "content": "result"})


async def test_summary_of_agents_counts_users_and_places() -> None:
    server = Server(refuses=lambda body: body["messages"][0]["content"] == "bad")
    found = await replay(server, Conversation((turn("a"), turn("b"))), Conversation((turn("bad"),)), agents=2)
    one = summarise_agents(found, agents=2, places=2)
    assert (one.sessions, one.requests, one.failed, one.errors) == (2, 3, 1, {"503 too much": 1})
    assert one.cached_share == pytest.approx(0.8)
    assert one.output_tokens_per_s == pytest.approx(22 / one.seconds / 2)
    assert one.tokens_per_s == pytest.approx(222 / one.seconds / 2)
    fastest = max(10 / (request.end_s - (request.first_s or 0)) for request in found if request.complete)
    assert 0 < one.user_tokens_per_s <= fastest
    lines = agents_table([one, one]).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    ET.fromstring(agents_picture([one, one]))  # noqa: S314  # our own
    with pytest.raises(ValueError, match="more --conversations"):
        summarise_agents([], agents=1, places=1)


def test_peer_takes_https_paths_and_the_v1_of_a_client() -> None:
    peer = Peer.of("https://example.com/openai/v1/", "sk")
    assert (peer.host, peer.port, peer.tls, peer.base) == ("example.com", 443, True, "/openai")
    assert prepared(peer, b"{}").startswith(
        b"POST /openai/v1/chat/completions HTTP/1.1\r\nHost: example.com:443"
    )
    assert Peer.of("http://127.0.0.1:8000") == Peer("127.0.0.1", 8000)
