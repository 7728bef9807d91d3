"""Agents that read JSON: Claude Code, opencode, Qwen Code, pi."""

import json
from typing import Any

from serval.agents.setup import HOME, KEY, KEY_VARIABLE, ConfigFile, Setup, Target

# Files of their own, beside the user's: each of these agents can be told to read one more.
_FOLDER = ".config/serval/agents"


def claude_code(target: Target) -> Setup:
    """Return settings for `claude --settings`, beside the user's own.

    Claude Code takes every model that it does not know for one with a million tokens of context.
    """
    names = ("ANTHROPIC_MODEL", *(f"ANTHROPIC_DEFAULT_{tier}_MODEL" for tier in ("OPUS", "SONNET", "HAIKU")))
    settings = {
        "env": {
            "ANTHROPIC_BASE_URL": target.root_url,
            **dict.fromkeys(names, target.model),
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(target.context_window),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(target.output_limit),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
        },
    }
    return Setup(
        f'claude --settings "{HOME}"/{_FOLDER}/claude-code.json',
        files=(_file("claude-code", settings),),
        variables={"ANTHROPIC_AUTH_TOKEN": KEY},
    )


def opencode(target: Target) -> Setup:
    """Return one more configuration, which opencode lays over the user's own."""
    limits = {"context": target.context_window, "output": target.output_limit}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Serval",
        "options": {"baseURL": target.base_url, "apiKey": f"{{env:{KEY_VARIABLE}}}"},
        "models": {target.model: {"name": target.model, "tool_call": True, "limit": limits}},
    }
    model = f"serval/{target.model}"
    settings = {
        "provider": {"serval": provider},
        "model": model,
        "small_model": model,
        "autoupdate": False,
        "share": "disabled",
    }
    return Setup(
        "opencode",
        files=(_file("opencode", settings),),
        variables={"OPENCODE_CONFIG": f"{HOME}/{_FOLDER}/opencode.json"},
    )


def qwen_code(target: Target) -> Setup:
    """Return settings that Qwen Code puts above the user's own."""
    model = {
        "id": target.model,
        "baseUrl": target.base_url,
        "envKey": KEY_VARIABLE,
        "generationConfig": {
            "contextWindowSize": target.context_window,
            "samplingParams": {"max_tokens": target.output_limit},
        },
    }
    settings = {
        "modelProviders": {"openai": [model]},
        "model": {"name": target.model},
        "security": {"auth": {"selectedType": "openai"}},
        "privacy": {"usageStatisticsEnabled": False},
        "general": {"enableAutoUpdate": False},
    }
    return Setup(
        "qwen",
        files=(_file("qwen-code", settings),),
        variables={"QWEN_CODE_SYSTEM_SETTINGS_PATH": f"{HOME}/{_FOLDER}/qwen-code.json"},
    )


def pi(target: Target) -> Setup:
    """Return the file in which pi looks for providers that it does not know."""
    model = {
        "id": target.model,
        "input": ["text"],
        "contextWindow": target.context_window,
        "maxTokens": target.output_limit,
    }
    provider = {
        "baseUrl": target.base_url,
        "api": "openai-completions",
        "apiKey": KEY,
        "models": [model],
    }
    return Setup(
        f"pi --model serval/{target.model}",
        files=(ConfigFile(".pi/agent/models.json", _text({"providers": {"serval": provider}})),),
        variables={"PI_TELEMETRY": "0"},
    )


def _file(name: str, settings: dict[str, Any]) -> ConfigFile:
    return ConfigFile(f"{_FOLDER}/{name}.json", _text(settings))


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, indent=2) + "\n"
