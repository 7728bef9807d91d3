"""Verdicts: streams that real clients accepted pass, and each change of one is a fault."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from serval.clients.recordings import Recording, recordings_of
from serval.clients.replay import Reply
from serval.clients.score import judge, rows, total

STREAMS = Path(__file__).parent / "streams"
NAMES = ("codex", "claude-code", "opencode")


def recording(client: str, **fields: Any) -> Recording:
    found = next(each for each in recordings_of(client) if each.streamed)
    return Recording(**{**vars(found), **fields})


def faults(client: str, text: str, *, status: int = 200, kind: str = "text/event-stream") -> tuple[str, ...]:
    return judge(client, recording(client), Reply(status, kind, text.encode())).faults


def stream(client: str) -> str:
    return (STREAMS / f"{client}.sse").read_text()


def without(text: str, kind: str) -> str:
    """Leave out the events of this kind."""
    return "".join(
        block + "\n\n" for block in text.split("\n\n") if block and f'"type": "{kind}"' not in block
    )


@pytest.mark.parametrize("client", NAMES)
def test_stream_that_its_client_accepted_has_no_fault(client: str) -> None:
    assert faults(client, stream(client)) == ()
    assert faults(client, ": ping\n\n" + stream(client).replace("\n", "\r\n")) == ()


@pytest.mark.parametrize(
    ("client", "pattern", "replacement", "fault"),
    [
        ("codex", "event: response.created", "event: created", "the name of an event is not its type"),
        ("codex", '"sequence_number": 3}', '"sequence_number": 4}', "sequence numbers"),
        ("codex", '"item_id": "msg_', '"item_id": "x_', "another item_id"),
        ("codex", r'(_item.done", "output_index": 0, "item": {"id": ")msg_', r"\1", "done has another id"),
        ("codex", r'("output": \[{"id": ")msg_', r"\1", "and of the final response differ"),
        ("codex", '"delta": "I will re"', '"delta": "I will "', "not the sum of its deltas"),
        ("codex", '"completed", "background"', '"failed", "background"', "the response is failed"),
        ("codex", '"call_id": "call_[^"]*"', '"call_id": ""', "without call_id"),
        ("claude-code", "event: ping", "event: pong", "the name of an event is not its type"),
        ("claude-code", '"index": 1', '"index": 2', "block 2 starts after 1"),
        ("claude-code", '"stop_reason": "tool_use"', '"stop_reason": "end_turn"', "reason is end_turn"),
        ("claude-code", '"stop_reason": "tool_use"', '"stop_reason": null', "stop_reason is None"),
        ("claude-code", '"type": "text_delta"', '"type": "thinking_delta"', "thinking_delta in a block"),
        ("claude-code", '"id": "toolu_[^"]*"', '"id": ""', "a tool_use without id"),
        ("opencode", '"role":"assistant"', '"role":null', "the first delta has no role"),
        ("opencode", r"data: \[DONE\]\n\n", "", r"does not end with \[DONE\]"),
        ("opencode", '"finish_reason":"tool_calls"', '"finish_reason":null', "finish reasons are"),
        ("opencode", '"usage":{', '"use":{', "no last chunk with usage"),
        ("opencode", '"id":"call_[^"]*"', '"id":""', "a call without id"),
        ("opencode", '"index":0,"id"', '"index":1,"id"', "a call has index 1"),
        ("opencode", r'"arguments":"{\\"', '"arguments":"', "are no JSON object"),
        ("opencode", '"chat.completion.chunk"', '"chat.completion"', "no chat.completion.chunk"),
    ],
)  # fmt: skip
def test_changed_stream_is_a_fault(client: str, pattern: str, replacement: str, fault: str) -> None:
    changed = re.sub(pattern, replacement, stream(client))
    assert changed != stream(client)
    found = faults(client, changed)
    assert any(re.search(fault, each) for each in found), found


@pytest.mark.parametrize(
    ("client", "kind"),
    [
        *(("codex", f"response.{kind}") for kind in (
            "created", "output_item.added", "content_part.added", "output_item.done", "completed",
            "function_call_arguments.delta",
        )),
        *(("claude-code", kind) for kind in (
            "message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop",
        )),
    ],
)  # fmt: skip
def test_event_left_out_is_a_fault(client: str, kind: str) -> None:
    shorter = without(stream(client), kind)
    assert shorter != stream(client)
    assert faults(client, shorter)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("data: {\n\n", "is not JSON"),
        ("data: 1\n\n", "is no object"),
        (
            'data: {"error": {"message": "It failed."}}\n\ndata: [DONE]\n\n',
            "an error in the stream: It failed.",
        ),
        ("data: {}", "ends inside an event"),
        ("", "does not end with"),
    ],
)
def test_stream_that_cannot_be_read_is_a_fault(text: str, fault: str) -> None:
    assert any(fault in each for each in faults("opencode", text))


CHAT = {
    "object": "chat.completion",
    "id": "chatcmpl-1",
    "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}],
    "usage": {"prompt_tokens": 1},
}
MESSAGE = {
    "type": "message",
    "role": "assistant",
    "id": "msg_1",
    "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
RESPONSE = {
    "object": "response",
    "id": "resp_1",
    "status": "completed",
    "output": [{"type": "message", "role": "assistant", "id": "msg_1"}],
    "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
}


@pytest.mark.parametrize(
    ("path", "body", "fault"),
    [
        ("/v1/chat/completions", CHAT, None),
        ("/v1/chat/completions", CHAT | {"id": ""}, "no id"),
        ("/v1/chat/completions", CHAT | {"usage": None}, "no usage"),
        ("/v1/chat/completions", CHAT | {"choices": [{"finish_reason": None}]}, "finish_reason is None"),
        ("/v1/chat/completions", CHAT | {"choices": ["Yes."]}, "another structure"),
        ("/v1/chat/completions", [], "no chat.completion"),
        ("/v1/messages", MESSAGE, None),
        ("/v1/messages", MESSAGE | {"stop_reason": "end_turn"}, "but stop_reason is end_turn"),
        ("/v1/messages", MESSAGE | {"content": []}, "but there is none"),
        ("/v1/messages", MESSAGE | {"content": [{"type": "image"}]}, "a block of type 'image'"),
        ("/v1/messages", MESSAGE | {"usage": {}}, "no usage"),
        ("/v1/messages/count_tokens", {"input_tokens": 3}, None),
        ("/v1/messages/count_tokens", {"input_tokens": "3"}, "no input_tokens"),
        ("/v1/responses", RESPONSE, None),
        ("/v1/responses", RESPONSE | {"status": "failed"}, "the response is failed"),
        ("/v1/responses", RESPONSE | {"output": [{"type": "message"}]}, "an item message without id"),
        ("/v1/responses", RESPONSE | {"usage": None}, "no usage"),
    ],
)
def test_whole_answer_is_judged(path: str, body: Any, fault: str | None) -> None:
    request = recording("codex", path=path, body={})
    found = judge("codex", request, Reply(200, "application/json", json.dumps(body).encode())).faults
    assert found == () if fault is None else any(fault in each for each in found), found


@pytest.mark.parametrize(
    ("expected", "status", "body", "passes"),
    [
        ("answer", 400, {"error": {"message": "No."}}, False),
        ("either", 400, {"error": {"message": "No."}}, True),
        ("either", 400, {"detail": "No."}, False),
        ("either", 500, {"error": {"message": "No."}}, False),
        ("refusal", 400, {"error": {"message": "No."}}, True),
        ("refusal", 404, {"error": {"message": "Unknown URL."}}, False),
        ("refusal", 200, {}, False),
    ],
)
def test_refusal_is_right_only_where_it_is_expected(
    expected: str, status: int, body: dict[str, Any], passes: bool
) -> None:
    reply = Reply(status, "application/json", json.dumps(body).encode())
    verdict = judge("codex", recording("codex", expected=expected), reply)
    assert (verdict.faults == ()) == passes


def test_report_counts_by_client_and_api() -> None:
    good = judge("codex", recording("codex"), Reply(200, "text/event-stream", stream("codex").encode()))
    bad = judge("codex", recording("opencode"), Reply(0, "", b"refused"))
    responses, chat, fault = rows([good, bad, good])
    assert re.fullmatch(r"codex +responses +2/2", responses)
    assert re.fullmatch(r"codex +chat +0/1", chat)
    assert fault == "    first: no answer: refused"
    assert total([good, good, bad]) == "2 of 3 requests answered as their clients need"
