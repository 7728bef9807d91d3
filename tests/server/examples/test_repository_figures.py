"""The program that measures the repository agent, through a gateway, on a repository of two files."""

import asyncio
from pathlib import Path

from serval_testkit.gateway import API_KEY, running_gateway
from serval_testkit.repository import ROOT

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from openai import OpenAI
import repository_figures
repository_figures.QUESTIONS = {"Where is a limit counted?": "limits.py", "Which opens a socket?": "net.py"}
client = OpenAI(base_url=sys.argv[3], api_key=sys.argv[4])
repository_figures.measured(Path(sys.argv[2]).resolve(), client, print)
"""


async def test_figures_count_the_requests_of_both_ways(tmp_path: Path, examples_python: Path) -> None:
    (tmp_path / "limits.py").write_text("def count_limit(limit):\n    return limit + 1\n")
    (tmp_path / "net.py").write_text("def open_socket(url):\n    return url\n")
    async with running_gateway() as gateway:
        program = await asyncio.create_subprocess_exec(
            examples_python, "-c", PROGRAM,
            ROOT / "server/examples", tmp_path, f"{gateway.url}/v1", API_KEY,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        printed, complaint = await program.communicate()
        assert program.returncode == 0, complaint.decode()
        sent = [len(request["input_ids"]) for request in gateway.engine.requests]
    found, _, _, _, first, both, whole, wholes = printed.decode().splitlines()[1:]
    assert found == "the file that answers: found for 2 of 2 questions, read for 2"
    # The question; a search, a read of its one hit, and a grep.
    assert first.startswith(f"| agent, first question | 4 | {sum(sent[:4]):,} | 0% |")
    assert both.startswith(f"| agent, 2 questions | 8 | {sum(sent[:8]):,} | 0% |")
    assert whole.startswith(f"| everything in the prompt, first question | 1 | {sent[8]:,} | 0% |")
    assert wholes.startswith(f"| everything in the prompt, 2 questions | 2 | {sum(sent[8:]):,} | 0% |")
