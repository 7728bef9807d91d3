"""An agent in front of a gateway whose engine follows a script."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serval.agents.setup import Target
from serval_testkit.agent_tasks import FILES
from serval_testkit.agents import Agent, configured_agent
from serval_testkit.gateway import MODEL, RunningGateway, running_gateway
from serval_testkit.scripted_engine import CONTEXT, Prompt, Script, ScriptedEngine


@dataclass(frozen=True)
class Session:
    """An agent at work; `prompts` are those that the engine was given so far."""

    agent: Agent
    gateway: RunningGateway
    prompts: list[Prompt]

    @property
    def conversation(self) -> list[Prompt]:
        """Prompts with tools: those of the task itself, and of subagents."""
        return [prompt for prompt in self.prompts if prompt.declares_tools]


@asynccontextmanager
async def agent_session(
    name: str,
    folder: Path,
    script: Script,
    *,
    model: str = MODEL,
    context_length: int = CONTEXT,
    context_window: int = CONTEXT,
    **settings: Any,
) -> AsyncIterator[Session]:
    """Start engine, gateway and agent; `folder` gets its home and its workspace, `work`.

    `context_length` is the engine's, `context_window` what the agent is told.
    """
    scripted = ScriptedEngine(script, context_length)
    async with running_gateway(engine=scripted.engine, served_model_name=model, **settings) as gateway:
        target = Target(f"{gateway.url}/v1", model, context_window, output_limit=32_000)
        yield Session(configured_agent(name, folder, target, FILES), gateway, scripted.prompts)
