"""Command `serval_load load` against a gateway: bursts, a trace, and their reports."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from serval_load.cli import main
from serval_testkit.load_stack import KEY, LoadStack, load_stack

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack() -> AsyncIterator[LoadStack]:
    async with load_stack() as running:
        yield running


async def load(stack: LoadStack, *arguments: str) -> int:
    url = f"http://{stack.peer.host}:{stack.peer.port}"
    return await asyncio.to_thread(main, ["load", *arguments, f"--url={url}", f"--key={KEY}"])


async def test_load_serves_every_session_of_a_burst(stack: LoadStack, tmp_path: Path) -> None:
    out = tmp_path / "burst"
    # A burst has the sessions of ten seconds; the next one would begin after the end.
    assert await load(stack, "burst", "--rate=1.2", "--seconds=1", f"--out={out}") == 0
    found = json.loads(out.with_suffix(".json").read_text())
    asked = found["requests"]
    assert len(asked) == 12
    assert all(one["complete"] for one in asked)
    assert found["summaries"][0]["complete"] == 12
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    assert "burst" in out.with_suffix(".html").read_text()
    await stack.all_free()


async def test_load_replays_a_trace_at_its_times(stack: LoadStack, tmp_path: Path) -> None:
    trace, out = tmp_path / "trace.jsonl", tmp_path / "replayed"
    sessions = [(0.0, "short"), (0.3, "chat"), (0.9, "short")]
    trace.write_text("".join(json.dumps({"at": at, "kind": kind}) + "\n" for at, kind in reversed(sessions)))
    assert await load(stack, "chat", f"--trace={trace}", f"--out={out}") == 0
    asked = json.loads(out.with_suffix(".json").read_text())["requests"]
    assert [one["kind"] for one in asked] == ["short", "chat", "short"]
    assert all(one["complete"] for one in asked)
    # uvloop's clock has a resolution of a millisecond.
    assert all(one["at"] > at - 0.01 for one, (at, _) in zip(asked, sessions, strict=True))
    await stack.all_free()


async def test_load_refuses_a_trace_with_an_unknown_kind(stack: LoadStack, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"at": 0, "kind": "poem"}\n')
    with pytest.raises(SystemExit, match=r"poem.*agent"):
        await load(stack, "chat", f"--trace={trace}")


async def test_load_exits_with_1_after_failed_requests(stack: LoadStack, tmp_path: Path) -> None:
    url = f"http://{stack.peer.host}:{stack.peer.port}"
    out = tmp_path / "refused"
    arguments = ["load", "burst", "--rate=0.2", "--seconds=1", f"--url={url}", "--key=wrong", f"--out={out}"]
    assert await asyncio.to_thread(main, arguments) == 1
    summary = json.loads(out.with_suffix(".json").read_text())["summaries"][0]
    assert (summary["complete"], summary["failed"]) == (0, 2)
    assert any(reason.startswith("401") for reason in summary["errors"])


async def test_load_with_several_rates_draws_a_curve_and_writes_a_table(tmp_path: Path) -> None:
    svg, document = tmp_path / "curve.svg", tmp_path / "results.md"
    document.write_text("before\n<!-- load-burst: begin -->\nold\n<!-- load-burst: end -->\nafter\n")
    arguments = ["burst", "--stand-in", "--rate", "0.2", "0.5", "--seconds=1"]
    written = [f"--svg={svg}", f"--into={document}"]
    assert await asyncio.to_thread(main, ["load", *arguments, *written]) == 0
    assert "Throughput and latency" in svg.read_text()
    before, *table, after = document.read_text().splitlines()
    assert (before, after) == ("before", "after")
    assert [line.split(" | ")[:2] for line in table if line.startswith("| 0")] == [
        ["| 0.2", "2 (0)"],
        ["| 0.5", "5 (0)"],
    ]


async def test_load_names_the_line_of_a_bad_trace_of_agents(stack: LoadStack, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    trace.write_text('{"conversations": [\n [{"messages": [{"content": "x"}]}]]}')
    with pytest.raises(SystemExit, match=r"^load agentx: error: .*trace.json:2: .*give each message a role$"):
        await load(stack, "agentx", f"--trace={trace}")


async def test_load_draws_sessions_without_a_server(tmp_path: Path) -> None:
    saved = tmp_path / "sessions.json"
    arguments = ["load", "agentx", "--no-requests", f"--save-trace={saved}", "--conversations=2"]
    assert await asyncio.to_thread(main, [*arguments, "--subagents=0", "--most-turns=2", "--scale=0.1"]) == 0
    assert len(json.loads(saved.read_text())["conversations"]) == 2


async def test_load_runs_agents_and_replays_the_sessions_it_saved(stack: LoadStack, tmp_path: Path) -> None:
    saved, out = tmp_path / "sessions.json", tmp_path / "agents"
    quick = ["--pause-scale=0.001", "--most-turns=3"]
    drawn = ["--scale=0.01", "--context=4000", "--subagents=1", "--conversations=2", f"--save-trace={saved}"]
    assert await load(stack, "agentx", "--concurrency", "1", "2", *quick, *drawn) == 0
    assert await load(stack, "agentx", "--concurrency=2", *quick, f"--trace={saved}", f"--out={out}") == 0
    told = json.loads(out.with_suffix(".json").read_text())
    (summary,) = told["summaries"]
    turns = sum(len(one) for one in json.loads(saved.read_text())["conversations"])
    assert (summary["agents"], summary["requests"], summary["failed"]) == (2, turns, 0)
    # The second turn of a session finds the first in the cache, and all sessions share tools.
    assert summary["cached_share"] > 0.3
    assert {one["kind"] for one in told["requests"]} == {"agent", "subagent"}
    assert out.with_suffix(".svg").read_text().startswith("<svg")
    assert "tokens/s a user" in out.with_suffix(".html").read_text()
    await stack.all_free()
