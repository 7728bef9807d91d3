"""Claude Code through the Messages API: everything that happens in a session beside the task itself."""

import base64
from pathlib import Path

from serval_testkit.agent_session import agent_session
from serval_testkit.agent_tasks import DONE, TASK
from serval_testkit.gateway import API_KEY
from serval_testkit.scripted_engine import Prompt, calls, failing_once, says, steps
from serval_testkit.stand_in_engine import Answer

AGENT = "claude-code"
# A red dot of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


async def test_results_of_parallel_calls_and_a_failed_command_reach_the_model(tmp_path: Path) -> None:
    both = calls("Bash", command="echo first", description="a") + calls(
        "Bash", command="echo second; exit 3", description="b"
    )
    async with agent_session(AGENT, tmp_path, steps(TASK, [both, DONE])) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        (_, after) = session.conversation
        assert "<longcat_tool_response>first</longcat_tool_response>" in after.last
        assert "<longcat_tool_response>Exit code 3\nsecond</longcat_tool_response>" in after.last


async def test_image_in_a_result_becomes_a_text(tmp_path: Path) -> None:
    path = tmp_path / "work/dot.png"
    script = steps(TASK, [calls("Read", file_path=str(path)), DONE])
    async with agent_session(AGENT, tmp_path, script) as session:
        path.write_bytes(PNG)
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        assert DONE in ended.output
        result = "<longcat_tool_response>[image omitted: this model reads text only]</longcat_tool_response>"
        assert result in session.conversation[-1].last


async def test_answer_cut_by_length_is_continued(tmp_path: Path) -> None:
    cut = Answer(["I will read"], finish={"type": "length", "length": 32_000})
    script = failing_once(steps(TASK, [DONE]), cut, turn=0)
    async with agent_session(AGENT, tmp_path, script) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        assert DONE in ended.output
        assert "Output token limit hit" in session.conversation[1].last


async def test_context_that_is_full_makes_it_compact_and_go_on(tmp_path: Path) -> None:
    def script(prompt: Prompt) -> Answer:
        if prompt.turns and "summary" in prompt.last:
            return says("<summary>The numbers have been listed.</summary>")
        if compacted(prompt):
            return says(DONE)
        return says(calls("Bash", command="seq 10000 11400", description="List numbers"))

    def compacted(prompt: Prompt) -> bool:
        return "The numbers have been listed." in prompt.text

    async with agent_session(AGENT, tmp_path, script, context_length=40_000) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        assert DONE in ended.output
        assert compacted(session.conversation[-1])
        # Its limit of tokens, 32,000, is cut to the room left.
        first = session.conversation[0]
        assert first.sampling["max_new_tokens"] == 40_000 - len(first.ids)


async def test_loaded_tool_can_be_called_and_leaves_the_prefix(tmp_path: Path) -> None:
    turns = [
        calls("ToolSearch", query="select:NotebookEdit", max_results="5"),
        calls("NotebookEdit", notebook_path=str(tmp_path / "none.ipynb"), new_source="1"),
        DONE,
    ]
    async with agent_session(AGENT, tmp_path, steps(TASK, turns)) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        first, loaded, called = session.conversation
        assert "### Tool name: NotebookEdit" not in first.text
        assert "### Tool name: NotebookEdit" in loaded.last
        assert loaded.found >= len(first.ids)
        # Its own answer to a call that it knows.
        assert "File has not been read yet" in called.last


async def test_subagents_work_beside_each_other(tmp_path: Path) -> None:
    def script(prompt: Prompt) -> Answer:
        for name in ("first", "second"):
            if f"Report the {name} file." in prompt.text and TASK not in prompt.text:
                return says(f"This is the {name} report.")
        return steps(TASK, [agents, DONE])(prompt)

    agents = "".join(
        calls("Agent", description=name, prompt=f"Report the {name} file.", run_in_background="false")
        for name in ("first", "second")
    )
    async with agent_session(AGENT, tmp_path, script) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        assert DONE in ended.output
        assert "This is the first report." in session.conversation[-1].last
        assert "This is the second report." in session.conversation[-1].last


async def test_resumed_session_begins_with_the_same_prompt(tmp_path: Path) -> None:
    async with agent_session(AGENT, tmp_path, lambda _: says(DONE)) as session:
        assert (await session.agent.works(TASK)).code == 0
        ended = await session.agent.works("Is it done?", "--continue")
        assert ended.code == 0, ended.errors
        first, resumed = session.conversation
        assert "Is it done?" in resumed.last
        assert resumed.found >= len(first.ids)


async def test_use_of_the_context_is_counted(tmp_path: Path) -> None:
    async with agent_session(AGENT, tmp_path, lambda _: says(DONE)) as session:
        ended = await session.agent.works("/context")
        assert ended.code == 0, ended.errors
        assert "131" in ended.output
        assert session.prompts == []


async def test_key_in_both_headers_is_accepted(tmp_path: Path) -> None:
    async with agent_session(AGENT, tmp_path, lambda _: says(DONE)) as session:
        ended = await session.agent.works(TASK, variables={"ANTHROPIC_API_KEY": API_KEY})
        assert ended.code == 0, ended.errors
