"""All hooks of the package, by their targets."""

from collections.abc import Mapping
from typing import Any

from serval_sglang.drafts import adaptive_steps, forced_tokens, verification

AROUND: Mapping[str, Any] = {**verification.AROUND, **adaptive_steps.AROUND, **forced_tokens.AROUND}
REPLACED: Mapping[str, type] = adaptive_steps.REPLACED
