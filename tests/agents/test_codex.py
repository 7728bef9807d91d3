"""Codex through the Responses API: everything that happens in a session beside the task itself."""

import base64
import json
import re
from pathlib import Path

from serval_testkit.agent_session import agent_session
from serval_testkit.agent_tasks import DONE, TASK
from serval_testkit.scripted_engine import Prompt, calls, says, steps
from serval_testkit.stand_in_engine import Answer

AGENT = "codex"
# A red dot of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


async def test_results_of_parallel_calls_and_a_failed_command_reach_the_model(tmp_path: Path) -> None:
    both = calls("exec_command", cmd="echo first") + calls("exec_command", cmd="echo second; exit 3")
    async with agent_session(AGENT, tmp_path, steps(TASK, [both, DONE])) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        (_, after) = session.conversation
        assert "code 0" in after.last
        assert "first" in after.last
        assert "code 3" in after.last
        assert "second" in after.last


async def test_image_in_a_result_becomes_a_text(tmp_path: Path) -> None:
    path = tmp_path / "work/dot.png"
    script = steps(TASK, [calls("view_image", path=str(path)), DONE])
    async with agent_session(AGENT, tmp_path, script) as session:
        path.write_bytes(PNG)
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        result = "<longcat_tool_response>[image omitted: this model reads text only]</longcat_tool_response>"
        assert result in session.conversation[-1].last


async def test_call_of_a_namespace_comes_back_with_its_name(tmp_path: Path) -> None:
    def script(prompt: Prompt) -> Answer:
        (name,) = re.findall(r"### Tool name: (\S*close_agent)\n", prompt.text)
        return says(DONE if prompt.turns else calls(name, target="x"))

    async with agent_session(AGENT, tmp_path, script) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        assert "invalid agent id x" in session.conversation[-1].last


async def test_answer_follows_the_output_schema(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(
        json.dumps(
            {
                "type": "object",
                "properties": {"fixed": {"type": "boolean"}},
                "required": ["fixed"],
                "additionalProperties": False,
            }
        )
    )
    async with agent_session(AGENT, tmp_path, steps(TASK, ['{"fixed":true}'])) as session:
        ended = await session.agent.works(TASK, "--output-schema", str(schema))
        assert ended.code == 0, ended.errors
        assert json.loads(ended.output.splitlines()[-1]) == {"fixed": True}
        assert '"fixed"' in session.prompts[0].sampling["structural_tag"]


async def test_context_that_is_full_ends_it_with_its_message(tmp_path: Path) -> None:
    script = steps(TASK, [calls("exec_command", cmd="seq 10000 12000"), DONE])
    async with agent_session(AGENT, tmp_path, script, context_length=22_000) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 1
        assert "ran out of room in the model's context window" in ended.errors


async def test_window_that_is_nearly_full_makes_it_compact_and_go_on(tmp_path: Path) -> None:
    def script(prompt: Prompt) -> Answer:
        if "CONTEXT CHECKPOINT" in prompt.last:
            return says("The numbers have been listed.")
        if "The numbers have been listed." in prompt.text:
            return says(DONE)
        return says(calls("exec_command", cmd="seq 10000 10900"))

    async with agent_session(AGENT, tmp_path, script, context_window=25_000) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        assert DONE in ended.output
        first, full, summary, last = session.prompts
        assert len(first.ids) < len(last.ids) < len(full.ids)
        assert TASK in last.text
        assert "CONTEXT CHECKPOINT" in summary.last


async def test_resumed_session_begins_with_the_same_prompt(tmp_path: Path) -> None:
    async with agent_session(AGENT, tmp_path, lambda _: says(DONE)) as session:
        assert (await session.agent.works(TASK)).code == 0
        ended = await session.agent.works("Is it done?", "resume", "--last")
        assert ended.code == 0, ended.errors
        first, resumed = session.conversation
        assert "Is it done?" in resumed.last
        assert resumed.found >= len(first.ids)


async def test_custom_tool_edits_a_file_under_a_name_that_it_knows(tmp_path: Path) -> None:
    patch = (
        "*** Begin Patch\n*** Update File: calc.py\n@@\n-    return a - b\n+    return a + b\n*** End Patch\n"
    )
    script = steps(TASK, [calls("apply_patch", input=patch), DONE])
    async with agent_session(AGENT, tmp_path, script, model="gpt-5.5") as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        assert (tmp_path / "work/calc.py").read_text() == "def add(a, b):\n    return a + b\n"


async def test_subagent_reports_to_the_one_that_made_it(tmp_path: Path) -> None:
    def script(prompt: Prompt) -> Answer:
        if TASK not in prompt.text:
            return says("This is the report.")
        made = re.search(r'"agent_id": ?"([^"]+)"', prompt.last)
        if made:
            return says(calls("multi_agent_v1.wait_agent", targets=json.dumps([made[1]])))
        return says(DONE if prompt.turns else calls("multi_agent_v1.spawn_agent", message="Report the file."))

    async with agent_session(AGENT, tmp_path, script) as session:
        ended = await session.agent.works(TASK)
        assert ended.code == 0, ended.errors
        assert DONE in ended.output
        assert '"completed":"This is the report."' in session.conversation[-1].last
