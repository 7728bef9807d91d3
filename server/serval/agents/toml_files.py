"""Agents that read TOML: Codex."""

import json

from serval.agents.setup import KEY_VARIABLE, ConfigFile, Setup, Target


def codex(target: Target) -> Setup:
    """Return a profile, which Codex lays over the user's own configuration (`codex --profile serval`).

    Codex speaks the Responses API alone. It knows neither the model nor its window, by which it decides when
    to compact.
    """
    model, base_url = json.dumps(target.model), json.dumps(target.base_url)
    text = f"""\
model = {model}
model_provider = "serval"
model_context_window = {target.context_window}
web_search = "disabled"
check_for_update_on_startup = false

[model_providers.serval]
name = "Serval"
base_url = {base_url}
env_key = "{KEY_VARIABLE}"
wire_api = "responses"

[analytics]
enabled = false
"""
    return Setup("codex --profile serval", files=(ConfigFile(".codex/serval.config.toml", text),))
