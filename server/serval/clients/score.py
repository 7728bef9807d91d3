"""Verdict on the answer to one recorded request, and the score of each client."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from serval.clients import chat_rules, messages_rules, responses_rules
from serval.clients.events import Event, EventError, read_events
from serval.clients.recordings import Api, Recording
from serval.clients.replay import Reply

_WHOLE: Final[Mapping[Api, Callable[[Any, Mapping[str, Any]], Iterator[str]]]] = {
    "chat": chat_rules.whole_faults,
    "responses": responses_rules.whole_faults,
    "messages": messages_rules.whole_faults,
    "count_tokens": messages_rules.count_faults,
}
_STREAM: Final[Mapping[Api, Callable[[Sequence[Event], Mapping[str, Any]], Iterator[str]]]] = {
    "chat": chat_rules.stream_faults,
    "responses": responses_rules.stream_faults,
    "messages": messages_rules.stream_faults,
}


@dataclass(frozen=True)
class Verdict:
    """The faults of one answer; none if the client could go on with it."""

    client: str
    request: str
    api: Api
    faults: tuple[str, ...]


def judge(client: str, recording: Recording, reply: Reply) -> Verdict:
    """Return the verdict on the answer to a recorded request of `client`."""
    try:
        faults = dict.fromkeys(_faults(recording, reply))
    except (AttributeError, KeyError, TypeError) as error:
        # Another server may send anything, such as text in place of an object.
        faults = {f"the answer has another structure than the API's: {error}": None}
    return Verdict(client, recording.name, recording.api, tuple(faults))


def _faults(recording: Recording, reply: Reply) -> Iterator[str]:
    if reply.status == 0:
        yield f"no answer: {reply.text}"
    elif reply.status >= 400:
        # A path that is unknown refuses nothing.
        if recording.expected == "answer" or reply.status != 400:
            yield f"{reply.status}: {_error_message(reply) or reply.text[:200]}"
        elif _error_message(reply) == "":
            yield f"{reply.status} without an error object"
    elif recording.expected == "refusal":
        yield f"{reply.status}, where only an error is right"
    elif recording.streamed:
        yield from _stream_faults(recording, reply)
    else:
        yield from _WHOLE[recording.api](reply.json(), recording.body)


def _stream_faults(recording: Recording, reply: Reply) -> Iterator[str]:
    if not reply.content_type.startswith("text/event-stream"):
        yield f"the answer is {reply.content_type or 'of no type'}, not a stream"
        return
    try:
        events = read_events(reply.text)
    except EventError as error:
        yield str(error)
        return
    yield from _STREAM[recording.api](events, recording.body)


def _error_message(reply: Reply) -> str:
    """Return the message of an error in OpenAI's or Anthropic's form; empty if it has neither."""
    body = reply.json()
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", ""))[:200] if isinstance(error, dict) else ""


def rows(verdicts: Sequence[Verdict]) -> list[str]:
    """Return the lines of one client's report: its score with each API, and what failed."""
    lines = []
    for api in dict.fromkeys(verdict.api for verdict in verdicts):
        group = [verdict for verdict in verdicts if verdict.api == api]
        passed = sum(not verdict.faults for verdict in group)
        lines.append(f"{group[0].client:<26} {api:<12} {passed}/{len(group)}")
        lines += [f"    {each.request}: {fault}" for each in group for fault in each.faults]
    return lines


def total(verdicts: Sequence[Verdict]) -> str:
    """Return the last line of the report."""
    passed = sum(not verdict.faults for verdict in verdicts)
    return f"{passed} of {len(verdicts)} requests answered as their clients need"
