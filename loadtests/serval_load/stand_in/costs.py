"""What the modelled engine costs: times of its steps, and its memory."""

import json
from dataclasses import dataclass
from pathlib import Path

FITTED = Path(__file__).with_name("fitted.json")


@dataclass(frozen=True)
class Costs:
    """Seconds of one step of the scheduler, and the sizes that bound it.

    A prefill of n new tokens takes `prefill_base_s + n * prefill_token_s`; a decode step of b requests, one
    token for each, takes `decode_base_s + b * decode_request_s`.
    """

    decode_base_s: float
    decode_request_s: float
    prefill_base_s: float
    prefill_token_s: float
    kv_tokens: int = 65_536
    max_running: int = 256
    # Most new prompt tokens in one step; a longer prompt takes several, and decoding waits meanwhile.
    chunk_tokens: int = 4_096
    # The prefix cache keeps whole blocks of this many tokens.
    block_tokens: int = 64
    # Requests that may wait; more are refused, as SGLang does with --max-queued-requests.
    max_waiting: int = 100_000

    def prefill_s(self, tokens: int) -> float:
        """One step that computes `tokens` new tokens of prompts."""
        return self.prefill_base_s + tokens * self.prefill_token_s

    def decode_s(self, batch: int) -> float:
        """One step that gives each of `batch` requests a token."""
        return self.decode_base_s + batch * self.decode_request_s


# Figures of no machine: for tests that want quick, round times.
ROUND = Costs(decode_base_s=0.01, decode_request_s=0.0005, prefill_base_s=0.005, prefill_token_s=0.00001)


def read_costs(path: Path = FITTED) -> Costs:
    """The costs in a file that `python -m serval_load fit` wrote. Raises `OSError` or `ValueError`."""
    return Costs(**json.loads(path.read_text())["costs"])
