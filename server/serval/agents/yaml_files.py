"""Agents that read YAML: aider, Continue. Scalars are written as JSON, which is YAML too."""

import json

from serval.agents.setup import HOME, KEY, KEY_VARIABLE, ConfigFile, Setup, Target

_FOLDER = ".config/serval/agents"


def aider(target: Target) -> Setup:
    """Return a configuration and the model's limits, which aider's list of models lacks.

    Models that it does not know would have to write whole files.
    """
    name = f"openai/{target.model}"
    config = f"""\
model: {json.dumps(name)}
weak-model: {json.dumps(name)}
openai-api-base: {json.dumps(target.base_url)}
edit-format: diff
analytics-disable: true
check-update: false
show-model-warnings: false
"""
    limits = {
        "max_input_tokens": target.context_window - target.output_limit,
        "max_output_tokens": target.output_limit,
        "litellm_provider": "openai",
        "mode": "chat",
    }
    folder = f'"{HOME}"/{_FOLDER}'
    return Setup(
        f"aider --config {folder}/aider.yml --model-metadata-file {folder}/aider-models.json",
        files=(
            ConfigFile(f"{_FOLDER}/aider.yml", config),
            ConfigFile(f"{_FOLDER}/aider-models.json", json.dumps({name: limits}, indent=2) + "\n"),
        ),
        variables={"OPENAI_API_KEY": KEY},
    )


def continue_cli(target: Target) -> Setup:
    """Return a configuration for `cn --config`; Continue takes the key from the environment."""
    config = f"""\
name: Serval
version: 1.0.0
schema: v1
models:
  - name: {json.dumps(target.model)}
    provider: openai
    model: {json.dumps(target.model)}
    apiBase: {json.dumps(target.base_url)}
    apiKey: ${{{{ secrets.{KEY_VARIABLE} }}}}
    roles: [chat, edit, apply]
    capabilities: [tool_use]
    defaultCompletionOptions:
      contextLength: {target.context_window}
      maxTokens: {target.output_limit}
"""
    return Setup(
        f'cn --config "{HOME}"/{_FOLDER}/continue.yaml',
        files=(ConfigFile(f"{_FOLDER}/continue.yaml", config),),
        variables={"CONTINUE_TELEMETRY_ENABLED": "0"},
    )
