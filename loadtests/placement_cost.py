"""Time that choosing one of several engines takes, for prompts of several lengths.

    python loadtests/placement_cost.py

Prompts of more than 8,192 tokens are hashed in a thread, so only `choose` holds up the event loop for them.
"""

import random
import timeit
from array import array
from collections.abc import Callable
from functools import partial

from serval.chat.prompt_parts import PromptParts
from serval.engine.placement import PlaceView, PrefixIndex, choose, placed_prompt

PLACES = 16
_TIMES = 50


def main() -> None:
    """Print a row for each length."""
    source = random.Random(1)
    print(f"| tokens | hash, ms | choose one of {PLACES} places, ms |")
    print("| ---: | ---: | ---: |")
    for tokens in (1_000, 8_000, 64_000, 256_000):
        ids = array("I", (source.randrange(100_000) for _ in range(tokens)))
        parts = PromptParts(shared=tokens // 20, first_turn=tokens // 10, earlier=0)
        views = [PlaceView(f"http://engine-{place}:30000", PrefixIndex(1_000_000)) for place in range(PLACES)]
        prompt = placed_prompt(ids, owner="acme", parts=parts)
        for view in views:
            view.index.add(prompt.blocks)
        hashing = _least_ms(partial(placed_prompt, ids, owner="acme", parts=parts))
        choosing = _least_ms(partial(choose, prompt, views))
        print(f"| {tokens:,} | {hashing:.2f} | {choosing:.2f} |")


def _least_ms(work: Callable[[], object]) -> float:
    return 1e3 * min(timeit.repeat(work, number=1, repeat=_TIMES))


if __name__ == "__main__":
    main()
