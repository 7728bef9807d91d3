"""The agents that `serval agent` knows."""

from collections.abc import Callable, Mapping
from typing import Final

from serval.agents import json_files, toml_files, variables, yaml_files
from serval.agents.setup import Setup, Target

AGENTS: Final[Mapping[str, Callable[[Target], Setup]]] = {
    "codex": toml_files.codex,
    "claude-code": json_files.claude_code,
    "opencode": json_files.opencode,
    "qwen-code": json_files.qwen_code,
    "pi": json_files.pi,
    "cline": variables.cline,
    "continue": yaml_files.continue_cli,
    "aider": yaml_files.aider,
    "mini-swe-agent": variables.mini_swe_agent,
}
