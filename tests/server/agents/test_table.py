"""Configuration of each agent as its reader sees it; `tests/agents` gives it to the agents themselves."""

import json
import tomllib
from typing import Any

import pytest
import yaml

from serval.agents.setup import KEY, ConfigFile, Setup, Target
from serval.agents.table import AGENTS

TARGET = Target("http://llm.example:8000/v1", 'long"cat', context_window=131_072, output_limit=32_000)
READERS = {"toml": tomllib.loads, "json": json.loads, "yml": yaml.safe_load, "yaml": yaml.safe_load}


def read(file: ConfigFile) -> Any:
    return READERS[file.path.rpartition(".")[2]](file.text)


def everything(setup: Setup) -> str:
    """Values of all files and variables, and the commands."""
    files = [json.dumps(read(file), ensure_ascii=False) for file in setup.files]
    return "\n".join([*files, *setup.variables.values(), setup.once, setup.command]).replace('\\"', '"')


@pytest.mark.parametrize("name", AGENTS)
def test_setup_names_server_model_and_key(name: str) -> None:
    found = everything(AGENTS[name](TARGET))
    assert TARGET.root_url in found
    assert TARGET.model in found
    assert "SERVAL_API_KEY" in found


# The others ask for no limit, or cannot be told.
@pytest.mark.parametrize("name", sorted(AGENTS.keys() - {"cline", "mini-swe-agent"}))
def test_setup_names_the_context_window(name: str) -> None:
    found = everything(AGENTS[name](TARGET))
    assert str(TARGET.context_window) in found or str(TARGET.context_window - TARGET.output_limit) in found


def test_codex_profile_is_read_as_meant() -> None:
    (file,) = AGENTS["codex"](TARGET).files
    assert file.path == ".codex/serval.config.toml"
    profile = read(file)
    assert profile["model"] == TARGET.model
    assert profile["model_provider"] == "serval"
    assert profile["model_context_window"] == 131_072
    assert profile["model_providers"]["serval"] == {
        "name": "Serval",
        "base_url": TARGET.base_url,
        "env_key": "SERVAL_API_KEY",
        "wire_api": "responses",
    }
    assert profile["analytics"] == {"enabled": False}


def test_claude_code_gets_the_address_without_v1_and_the_model_for_all_tiers() -> None:
    setup = AGENTS["claude-code"](TARGET)
    (file,) = setup.files
    variables = read(file)["env"]
    assert variables["ANTHROPIC_BASE_URL"] == "http://llm.example:8000"
    assert {variables[name] for name in variables if name.endswith("_MODEL")} == {TARGET.model}
    assert variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "131072"
    assert setup.variables == {"ANTHROPIC_AUTH_TOKEN": KEY}


def test_continue_takes_the_key_from_the_environment() -> None:
    (file,) = AGENTS["continue"](TARGET).files
    (model,) = read(file)["models"]
    assert model["model"] == TARGET.model
    assert model["apiKey"] == "${{ secrets.SERVAL_API_KEY }}"


@pytest.mark.parametrize("name", AGENTS)
def test_files_stay_below_the_home_folder(name: str) -> None:
    for file in AGENTS[name](TARGET).files:
        assert not file.path.startswith("/")
        assert ".." not in file.path.split("/")
