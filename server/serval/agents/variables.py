"""Agents that need no file: variables, or a command of their own, are enough."""

import shlex

from serval.agents.setup import KEY, Setup, Target


def mini_swe_agent(target: Target) -> Setup:
    """Return the variables of litellm, through which mini-swe-agent asks models."""
    return Setup(
        f"mini --model {shlex.quote(f'openai/{target.model}')}",
        variables={
            "OPENAI_API_BASE": target.base_url,
            "OPENAI_API_KEY": KEY,
            "MSWEA_COST_TRACKING": "ignore_errors",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        },
    )


def cline(target: Target) -> Setup:
    """Return the command by which cline writes its configuration, with the key in it."""
    return Setup(
        "cline",
        once=(
            f'cline auth -p openai-compatible -k "{KEY}"'
            f" -m {shlex.quote(target.model)} -b {shlex.quote(target.base_url)}"
        ),
        note="cline keeps the key itself in its configuration, readable by you alone",
    )
