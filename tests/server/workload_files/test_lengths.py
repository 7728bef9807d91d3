"""Lengths of workloads: every kind of file, and errors with line and remedy."""

import json
from pathlib import Path

import pytest

from serval.telemetry.logs import JsonFormatter, RequestEntry
from serval.telemetry.record import RequestRecord
from serval.workload_files import Call, Conversation, Spawn, Turn, WorkloadFileError, read_workload
from serval.workload_files.conversations import write_conversations
from serval.workload_files.lengths import DEFAULT_OUTPUT_TOKENS


def file(folder: Path, text: str) -> Path:
    path = folder / "log"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "prompt,output,cached,at\n100, 5, 64, 12.5\n90,1,,10\n",
        "\ufeffat,completion_tokens,prompt_tokens,cached_tokens\n12.5,5,100,64\n10,1,90,\n",
        '{"prompt": 100, "output": 5, "cached": 64, "at": 12.5}\n\n{"prompt": 90, "output": 1, "at": 10}\n',
    ],
)
def test_rows_become_sessions_in_the_order_of_arrival(tmp_path: Path, text: str) -> None:
    found = read_workload(file(tmp_path, text))
    assert [(one.start_s, one.calls) for one in found.sessions] == [
        (0.0, (Call(90, 1, 0),)),
        (2.5, (Call(100, 5, 64),)),
    ]
    assert found.timed
    assert found.notes == ()


def test_rows_without_arrivals_are_untimed(tmp_path: Path) -> None:
    found = read_workload(file(tmp_path, "prompt,output\n100,5\n"))
    assert not found.timed
    assert [*found.calls] == [Call(100, 5, 0)]


def test_log_of_the_gateway_gives_lengths_and_arrivals(tmp_path: Path) -> None:
    """Lines come from the gateway's own formatter; arrival is the time of the line less the duration."""
    formatter = JsonFormatter()
    lines = [json.dumps({"event": "engine ready", "time": "2026-01-31T12:00:00.000Z"})]
    for created, prompt, answer in ((1000.0, 300, 20), (1001.5, 400, 30), (1002.0, 0, 0)):
        record = RequestRecord(
            request_id="r", method="POST", route="chat", prompt_tokens=prompt, completion_tokens=answer,
            cached_tokens=prompt // 2,
        )  # fmt: skip
        entry = RequestEntry(record)
        entry.created, entry.msecs = created, created % 1 * 1000
        line = json.loads(formatter.format(entry))
        lines.append(json.dumps({**line, "duration_ms": answer * 10.0}))
    found = read_workload(file(tmp_path, "\n".join(lines)))
    assert [one.start_s for one in found.sessions] == [0.0, pytest.approx(1.4)]
    assert [*found.calls] == [Call(300, 20, 150), Call(400, 30, 200)]
    assert found.notes == ("1 requests that generated nothing are left out",)


def test_conversations_give_stated_lengths_or_say_what_was_assumed(tmp_path: Path) -> None:
    system = {"role": "system", "content": "a" * 2048}
    user = {"role": "user", "content": "b" * 400}
    given = [
        Conversation((Turn((system, user), 1224, 50), Turn((user,), 1400, 60, pause_s=3.0))),
        Conversation((Turn((user,)), Turn((user,))), after=Spawn(0, 0)),
    ]
    path = tmp_path / "trace.json"
    write_conversations(path, given, metadata={})
    found = read_workload(path)
    first, second = found.sessions
    assert first.calls == (Call(1224, 50), Call(1400, 60, pause_s=3.0))
    assert (len(first.prefix), first.piece_tokens) == (2, 512.0)
    assert second.calls == (Call(100, DEFAULT_OUTPUT_TOKENS), Call(200 + DEFAULT_OUTPUT_TOKENS, 220))
    assert second.after == Spawn(0, 0)
    assert found.notes == (
        "2 prompts without prompt_tokens: 4 characters a token",
        "2 answers without output_tokens: 220 tokens each",
    )


def test_system_prompts_share_their_common_beginning(tmp_path: Path) -> None:
    tools = "t" * 3000
    texts = [tools + "x" * 3000, tools + "y" * 3000]
    turns = [Turn(({"role": "system", "content": text},), 1500, 5) for text in texts]
    path = tmp_path / "trace.json"
    write_conversations(path, [Conversation((one,)) for one in turns], metadata={})
    one, other = (session.prefix for session in read_workload(path).sessions)
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "the file is empty; wanted prompt and output"),
        ("prompt,answer\n1,2\n", 1, "the header is answer, prompt; wanted prompt and output"),
        ("prompt,output\n1,2\n3,\n", 3, "prompt or output is missing; wanted"),
        ("prompt,output\n1,2\n3,4.5\n", 3, "output must be a whole number of tokens, got '4.5'; correct it"),
        ("prompt,output,cached\n1,2,3\n", 2, "cached is 3, more than the prompt's 1 tokens"),
        ("prompt,output,at\n1,2,3\n1,2,\n", 3, "some lines have an arrival and some have none; give all one"),
        ("prompt,output,at\n1,2,nan\n", 2, "at must be in seconds"),
        ("prompt,output\n0,0\n", 1, "no line has a prompt and an answer"),
        ('{"prompt": 1, "output": 2}\n{"prompt"\n', 2, "this line is not JSON"),
        ('{"prompt": 1, "output": 2}\n[]\n', 2, "this line is no JSON object"),
        ('{"prompt": 1, "output": 2, "time": "noon"}\n', 1, "time as the gateway logs it"),
        ('{"conversations": [\n[{"messages": 3}]]}', 2, "messages must be a list"),
    ],
)
def test_reader_names_line_and_remedy(tmp_path: Path, text: str, line: int, says: str) -> None:
    with pytest.raises(WorkloadFileError, match=rf"log:{line}: .*{says}"):
        read_workload(file(tmp_path, text))
