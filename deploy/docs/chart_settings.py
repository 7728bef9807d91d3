"""Names of settings that the chart's `gateway.settings` may have, written into its schema."""

import json
from pathlib import Path

from serval.settings import Settings

SCHEMA = Path(__file__).resolve().parents[2] / "helm/serval/values.schema.json"

# Settings that the chart makes of values of its own; secrets beside them come from Secrets.
OF_THE_CHART = frozenset(
    {
        "host",
        "port",
        "engine_url",
        "engine_timeout_s",
        "metrics_host",
        "metrics_port",
        "model",
        "served_model_name",
        "api_key_file",
        "shutdown_grace_s",
        "key_database",
        "limits_share",
        "usage_journal",
    }
)


def allowed() -> list[str]:
    """Settings that are neither the chart's own nor secret."""
    secret = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    return sorted(set(Settings.model_fields) - OF_THE_CHART - secret)


def schema() -> str:
    """The chart's schema with these names."""
    values = json.loads(SCHEMA.read_text())
    gateway = values["properties"]["gateway"]["properties"]
    gateway["settings"]["propertyNames"] = {"enum": allowed()}
    return json.dumps(values, indent=1) + "\n"
