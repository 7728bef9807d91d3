"""Driver of agents in a closed loop: each works on one conversation after the other, turn by turn.

The model's own answer becomes part of the next prompt, as with SGLang's replay. An agent takes the pauses of
the trace; its subagents run beside each other after the turn that starts them, and it waits for all of them.
"""

import asyncio
import json
import math
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from serval.workload_files import Conversation, Turn
from serval_load.answers import read_stream
from serval_load.client import Peer, exchange, prepared
from serval_load.workloads.driver import Progress, Request, kept, report


@dataclass(frozen=True)
class Pace:
    """Times of a run, in seconds.

    - `ramp_s`: agents begin evenly spread over so long
    - `until_s`: no turn begins later than that after the start
    """

    ramp_s: float = 0.0
    until_s: float = math.inf


def with_pauses(
    conversations: Sequence[Conversation], *, scale: float, longest_s: float
) -> list[Conversation]:
    """Multiply each pause of the conversations; none gets longer than `longest_s`."""
    return [
        replace(
            one,
            turns=tuple(replace(turn, pause_s=min(turn.pause_s * scale, longest_s)) for turn in one.turns),
        )
        for one in conversations
    ]


async def drive_agents(
    peer: Peer,
    conversations: Sequence[Conversation],
    *,
    agents: int,
    body: Mapping[str, Any],
    output_tokens: int,
    pace: Pace,
    mark: str = "",
    log: Callable[[str], None],
) -> list[Request]:
    """Replay the conversations with `agents` at a time, and wait for all to end.

    - `body`: fields of each request besides messages, such as the model
    - `output_tokens`: length of answers for which the trace says none
    - `mark`: text in front of each conversation, so that the cache of an earlier run holds none of it
    """
    run = _Run(peer, conversations, body, output_tokens, pace, mark)
    reporter = asyncio.create_task(report(run.progress, run.waiting_count, log))
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(agents):
                group.create_task(run.agent(pace.ramp_s * number / agents))
    finally:
        reporter.cancel()
    return sorted(run.found, key=lambda request: request.at)


@dataclass
class _Run:
    peer: Peer
    conversations: Sequence[Conversation]
    body: Mapping[str, Any]
    output_tokens: int
    pace: Pace
    mark: str
    progress: Progress = field(default_factory=Progress)
    found: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._started = asyncio.get_running_loop().time()
        # Subagents by conversation and turn.
        self._spawned: dict[tuple[int, int], list[int]] = defaultdict(list)
        self._waiting: deque[int] = deque()
        for number, one in enumerate(self.conversations):
            if one.after is not None:
                self._spawned[one.after.conversation, one.after.turn].append(number)
            elif one.turns:
                self._waiting.append(number)
        self.waiting_count = len(self._waiting)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() - self._started

    async def agent(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        while self._waiting:
            self.progress.begun += 1
            await self._converse(self._waiting.popleft(), "agent")

    async def _converse(self, number: int, kind: str) -> None:
        history: list[Mapping[str, Any]] = []
        for place, turn in enumerate(self.conversations[number].turns):
            if place:
                await asyncio.sleep(turn.pause_s)
            if self._now_s() > self.pace.until_s:
                return
            history += self._messages(turn, first=not place)
            answer = await self._ask(history, turn, kind, number, place)
            if answer is None:
                return
            history.append({"role": "assistant", "content": answer})
            await asyncio.gather(*(self._converse(one, "subagent") for one in self._spawned[number, place]))

    def _messages(self, turn: Turn, *, first: bool) -> list[Mapping[str, Any]]:
        messages = [_sendable(message) for message in turn.messages]
        if first and self.mark:
            marked = dict(messages[0])
            content = marked["content"]
            mark = self.mark if isinstance(content, str) else [{"type": "text", "text": self.mark}]
            marked["content"] = mark + content
            messages[0] = marked
        return messages

    async def _ask(
        self, history: Sequence[Mapping[str, Any]], turn: Turn, kind: str, number: int, place: int
    ) -> str | None:
        """Send a turn; return the text of its answer, None if it was not complete."""
        body = {
            "messages": list(history),
            "max_tokens": turn.output_tokens or self.output_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.body,
        }
        request = prepared(self.peer, json.dumps(body).encode())
        at = self._now_s()
        self.progress.running += 1
        answer = read_stream(await exchange(self.peer, request))
        self.progress.running -= 1
        self.progress.done += 1
        self.progress.failed += not answer.complete
        self.found.append(kept(answer, kind, number, place, at))
        return answer.text if answer.complete else None


def _sendable(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Send a tool's result as a user's: a replayed answer calls no tool, so there is no call to name."""
    return {**message, "role": "user"} if message["role"] in ("tool", "function") else message
