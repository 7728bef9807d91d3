"""Costs of the modelled engine: times of its steps, and its memory."""

import json
from dataclasses import dataclass
from pathlib import Path

FITTED = Path(__file__).with_name("fitted.json")


@dataclass(frozen=True)
class Costs:
    """Seconds of one scheduler step, and the sizes that bound it.

    A prefill of n new tokens takes `prefill_base_s + n * prefill_token_s`; a decode step of b requests, one
    token for each, takes `decode_base_s + b * decode_request_s`.
    """

    decode_base_s: float
    decode_request_s: float
    prefill_base_s: float
    prefill_token_s: float
    kv_tokens: int = 65_536
    max_running: int = 256
    # Most new prompt tokens in a step; longer prompts take several, during which decoding waits.
    chunk_tokens: int = 4_096
    # Block size of the prefix cache, which keeps whole blocks only.
    block_tokens: int = 64
    # Length of the queue; further requests are refused, as with SGLang's --max-queued-requests.
    max_waiting: int = 100_000

    def prefill_s(self, tokens: int) -> float:
        """Seconds of a step that computes `tokens` new tokens of prompts."""
        return self.prefill_base_s + tokens * self.prefill_token_s

    def decode_s(self, batch: int) -> float:
        """Seconds of a step that generates a token for each of `batch` requests."""
        return self.decode_base_s + batch * self.decode_request_s


# Short, round times of no real machine, for tests.
ROUND = Costs(decode_base_s=0.01, decode_request_s=0.0005, prefill_base_s=0.005, prefill_token_s=0.00001)


def read_costs(path: Path = FITTED) -> Costs:
    """Read costs from a file of `python -m serval_load fit`. Raises `OSError` or `ValueError`."""
    return Costs(**json.loads(path.read_text())["costs"])
