"""Questions, and the ways of asking them."""

import random
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from serval_sglang.verify.engine import Engine, EngineFailed, Generation, generate

Prompt = tuple[int, ...]

_FIRST_ORDINARY_TOKEN = 3
_SHORTEST, _LONGEST = 5, 200
_FLUSH_TIMEOUT_S = 30


def prompts(count: int, *, vocab_size: int, seed: int = 0) -> list[Prompt]:
    """Return random prompts of 5 to 200 tokens, none of them a prefix of another."""
    generator = random.Random(seed)
    lengths = [_SHORTEST + (_LONGEST - _SHORTEST) * number // max(count - 1, 1) for number in range(count)]
    return [
        tuple(generator.randrange(_FIRST_ORDINARY_TOKEN, vocab_size) for _ in range(length))
        for length in lengths
    ]


def ask_alone(engine: Engine, questions: Sequence[Prompt], *, new_tokens: int) -> list[Generation]:
    """Ask one after another, with an empty prefix cache at the beginning. Raises `EngineFailed`."""
    _forget(engine)
    return _ask_in_turn(engine, questions, new_tokens)


def ask_again(engine: Engine, questions: Sequence[Prompt], *, new_tokens: int) -> list[Generation]:
    """Ask once more what has just been asked. Raises `EngineFailed`, also if nothing came from the cache."""
    answers = _ask_in_turn(engine, questions, new_tokens)
    if not any(answer.cached_tokens for answer in answers):
        raise EngineFailed("no request met a cached prefix: leave --disable-radix-cache out.")
    return answers


def ask_together(
    engine: Engine, questions: Sequence[Prompt], *, new_tokens: int, at_once: int | None = None
) -> list[Generation]:
    """Ask `at_once` at a time (default: all), with an empty prefix cache at the beginning. Raises
    `EngineFailed`."""
    _forget(engine)
    with ThreadPoolExecutor(at_once or len(questions)) as pool:
        return list(pool.map(lambda asked: generate(engine, asked, max_new_tokens=new_tokens), questions))


def _ask_in_turn(engine: Engine, questions: Sequence[Prompt], new_tokens: int) -> list[Generation]:
    return [generate(engine, asked, max_new_tokens=new_tokens) for asked in questions]


def _forget(engine: Engine) -> None:
    """Empty the prefix cache. SGLang refuses while requests run, so it waits for their end."""
    url = f"{engine.base_url}/flush_cache?timeout={_FLUSH_TIMEOUT_S}"
    try:
        with urllib.request.urlopen(url, timeout=2 * _FLUSH_TIMEOUT_S):  # noqa: S310
            pass
    except OSError as error:
        raise EngineFailed(f"{url} failed: {error}") from error
