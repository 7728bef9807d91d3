"""Requests that take an engine through every path of the n-gram state and of the batch scheduler."""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from serval_sglang.config import LongcatConfig
from serval_sglang.metrics.batches import BATCHES_METRIC
from serval_sglang.verify.engine import Engine, EngineFailed, Generation, generate

CONCURRENT_REQUESTS = 16
MIXED_REQUESTS = 8

_FIRST_ORDINARY_TOKEN = 3
_LONGEST_PROMPT = 600
# A smaller chunk costs one forward pass every few tokens, so prompts are kept short.
_SMALL_CHUNK = 16
_LONGEST_PROMPT_IN_SMALL_CHUNKS = 24
# Above this, prompts of two chunks would be too long for the reference, whose attention is quadratic.
_LARGE_CHUNK = 512
_DECODE_STEPS = 6
# SGLang restores no shorter prefix from the host's memory.
_SHORTEST_RESTORED = 10
# Requests beyond those that fill the KV cache, so that all that was there before has left it.
_MORE_FILLERS = 4

RESTORED_PREFIXES = "prefix restored from the host"


@dataclass(frozen=True, slots=True)
class Request:
    """Greedy decoding after `prompt`.

    If `new_tokens` is 1, all positions of the prompt are compared. Without `log_probabilities`, only the
    tokens that the engine chose are compared.
    """

    prompt: tuple[int, ...]
    new_tokens: int
    log_probabilities: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """Waves of requests, one wave after another; the requests of a wave are sent at the same time.

    If `continued`, every answer of the last wave is continued from the prefix cache. A case counts as covered
    only if there were cache hits (if `needs_cache_hits`), hits in the host's memory (if `needs_restored`),
    and a batch of the kind `needs_batches` (see `serval_sglang.metrics.batches`).
    """

    name: str
    waves: tuple[tuple[Request, ...], ...]
    continued: bool = False
    needs_cache_hits: bool = False
    needs_restored: bool = False
    needs_batches: str | None = None


@dataclass(frozen=True, slots=True)
class Prompts:
    """Random prompts for one model, with about every tenth token an end of sequence."""

    config: LongcatConfig
    seed: int = 0

    def make(self, length: int, *, seed: int) -> tuple[int, ...]:
        """Return `length` tokens, determined by seeds and length."""
        generator = random.Random((self.seed * 1_000 + seed) * 1_000_003 + length)
        eos = self.config.eos_token_id
        return tuple(eos if generator.random() < 0.1 else self._ordinary(generator) for _ in range(length))

    def with_eos_at(self, length: int, distances: Sequence[int], *, seed: int) -> tuple[int, ...]:
        """Return a prompt with ends of sequence only at `distances` before the last token."""
        generator = random.Random((self.seed * 1_000 + seed) * 1_000_003 + length)
        prompt = [self._ordinary(generator) for _ in range(length)]
        for distance in distances:
            prompt[length - 1 - distance] = self.config.eos_token_id
        return tuple(prompt)

    def _ordinary(self, generator: random.Random) -> int:
        return generator.randrange(_FIRST_ORDINARY_TOKEN, self.config.vocab_size)


def verification_cases(
    config: LongcatConfig,
    *,
    chunk: int | None,
    mixed: bool = False,
    restored_from: int | None = None,
    seed: int = 0,
) -> list[Case]:
    """Return every case for a model and an engine's chunk size in tokens; None is prefill in one piece.

    `mixed` is for engines that put decode steps into prefill batches (`--enable-mixed-chunk`), and
    `restored_from` for those with HiCache: the tokens that their KV cache holds on the device. Lengths lie
    around the look-back of n - 1 tokens and around one and two chunks, and exceed YaRN's original context if
    it is short.
    """
    prompts = Prompts(config, seed)
    cases = [
        _every_position(prompts, chunk),
        _decode_steps(prompts, chunk),
        _eos_in_the_window(prompts),
        _cached_prefixes(prompts, chunk),
        _concurrent_requests(prompts, chunk),
    ]
    if chunk is not None:
        cases.append(_chunks_at_any_boundary(prompts, chunk))
        if mixed:
            cases.append(_decode_beside_prefill(prompts, chunk))
    if restored_from is not None:
        cases.append(_restored_prefixes(prompts, chunk, restored_from))
    return cases


def run_case(engine: Engine, case: Case) -> list[Generation]:
    """Return the engine's answers in the order of the requests, followed by their continuations.

    Raises `EngineFailed` if it refused a request or the case was not covered.
    """
    before = _batches(engine, case.needs_batches)
    answers: list[Generation] = []
    wave_answers: list[Generation] = []
    for wave in case.waves:
        wave_answers = _answers(engine, wave)
        answers += wave_answers
    if case.continued:
        answers += _answers(engine, [Request((*a.prompt, *a.output_ids), 2) for a in wave_answers])
    if case.needs_batches is not None and _batches(engine, case.needs_batches) == before:
        raise EngineFailed(
            f"{case.name}: the engine computed no {case.needs_batches} batch, so this case is not covered."
        )
    if case.needs_cache_hits and not any(answer.cached_tokens for answer in answers):
        raise EngineFailed(
            f"{case.name}: no request met a cached prefix, so this case is not covered. Leave "
            "--disable-radix-cache out, and choose a --page-size below the length of a prompt."
        )
    if case.needs_restored and not any(answer.restored_tokens for answer in answers):
        raise EngineFailed(
            f"{case.name}: no prefix came from the host's memory, so this case is not covered. Leave "
            "--hicache-ratio and --max-total-tokens out."
        )
    return answers


def _answers(engine: Engine, wave: Sequence[Request]) -> list[Generation]:
    def ask(request: Request) -> Generation:
        return generate(
            engine,
            request.prompt,
            max_new_tokens=request.new_tokens,
            log_probabilities=request.log_probabilities,
        )

    with ThreadPoolExecutor(len(wave)) as pool:
        return list(pool.map(ask, wave))


def _batches(engine: Engine, kind: str | None) -> float:
    return 0.0 if kind is None else engine.metric_total(BATCHES_METRIC, kind=kind)


def prompt_lengths(config: LongcatConfig, chunk: int | None) -> list[int]:
    """Return lengths around the look-back, around one and two chunks, and some long ones."""
    n = config.emb_neighbor_num
    lengths = set(range(1, n + 2))
    lengths |= {boundary + d for boundary in _boundaries(chunk) for d in range(-1, n)}
    long = _longest(chunk)
    lengths |= {long // 4, long // 2, long}
    room = config.max_position_embeddings - _DECODE_STEPS
    return sorted(length for length in lengths if 1 <= length <= room)


def _every_position(prompts: Prompts, chunk: int | None) -> Case:
    lengths = prompt_lengths(prompts.config, chunk)
    requests = [Request(prompts.make(length, seed=1), 1) for length in lengths]
    return Case("every position of a prompt", _one_by_one(requests))


def _decode_steps(prompts: Prompts, chunk: int | None) -> Case:
    lengths = prompt_lengths(prompts.config, chunk)
    requests = [Request(prompts.make(length, seed=2), _DECODE_STEPS) for length in lengths]
    return Case("decode after prompts of all lengths", _one_by_one(requests))


def _eos_in_the_window(prompts: Prompts) -> Case:
    """Build prompts with ends of sequence at each place of the window, in prefill and then in decode."""
    n = prompts.config.emb_neighbor_num
    places = [(distance,) for distance in range(n + 1)] + [(0, 1), tuple(range(n + 1))]
    requests = [
        Request(prompts.with_eos_at(n + 4, distances, seed=10 + i), _DECODE_STEPS)
        for i, distances in enumerate(places)
    ]
    return Case("end of sequence in the window", (tuple(requests),))


def _cached_prefixes(prompts: Prompts, chunk: int | None) -> Case:
    """Build pairs of requests: the second shares the first tokens, so its look-back is in the cached part."""
    n = prompts.config.emb_neighbor_num
    long = _longest(chunk)
    shared = {*range(1, n + 1), *(boundary + d for boundary in _boundaries(chunk) for d in (0, 1)), long // 4}
    requests = []
    for number, length in enumerate(sorted(shared)):
        first = prompts.make(length + n + 1, seed=30 + number)
        # Different from the token that followed in the first request, so that the hit ends here.
        other = prompts.make(n + 14, seed=60 + number)
        requests += [Request(first, 2), Request(first[:length] + other, _DECODE_STEPS)]
    return Case("cached prefixes", _one_by_one(requests), needs_cache_hits=True)


def _restored_prefixes(prompts: Prompts, chunk: int | None, kv_tokens: int) -> Case:
    """Build prompts that others push out of the device's memory, then requests that share their first tokens
    and find these in the host's: the look-back of what follows lies in the restored part."""
    n = prompts.config.emb_neighbor_num
    long = _longest(chunk)
    boundaries = {boundary + d for boundary in _boundaries(chunk) for d in (0, 1)}
    shared = {*range(_SHORTEST_RESTORED, _SHORTEST_RESTORED + n), long // 2, *boundaries}
    lengths = sorted(length for length in shared if _SHORTEST_RESTORED <= length < long)
    firsts = [prompts.make(length + n + 1, seed=200 + i) for i, length in enumerate(lengths)]
    fillers = [prompts.make(long, seed=300 + i) for i in range(kv_tokens // long + _MORE_FILLERS)]
    again = [
        Request(first[:length] + prompts.make(n + 14, seed=260 + i), _DECODE_STEPS)
        for i, (first, length) in enumerate(zip(firsts, lengths, strict=True))
    ]
    # Twice, because one of SGLang's policies writes to the host what has been met again.
    stored = [Request(first, 2) for first in [*firsts, *firsts]]
    waves = _one_by_one([*stored, *(Request(filler, 2) for filler in fillers), *again])
    return Case(RESTORED_PREFIXES, waves, needs_cache_hits=True, needs_restored=True)


def _concurrent_requests(prompts: Prompts, chunk: int | None) -> Case:
    """Build requests with shared prefixes, prefill beside decode, and slots that are freed and reused."""
    small = _is_small(chunk)
    common = prompts.make(6 if small else 90, seed=90)
    requests = []
    for i in range(CONCURRENT_REQUESTS):
        own = prompts.make(2 + i % 5 if small else 5 + 7 * i, seed=91 + i)
        requests.append(Request(common[: (i % 4) * len(common) // 3] + own, 8 if small else 24))
    waves = ((Request(common, 2),), tuple(requests))
    return Case(f"{CONCURRENT_REQUESTS} requests at once", waves, needs_cache_hits=True)


def _chunks_at_any_boundary(prompts: Prompts, chunk: int | None) -> Case:
    """Build concurrent requests that share chunks, so that chunks end anywhere within them."""
    n = prompts.config.emb_neighbor_num
    lengths = [boundary + d for boundary in _boundaries(chunk) for d in range(n + 1)]
    requests = [Request(prompts.make(length, seed=120 + i), 1 + i % 3) for i, length in enumerate(lengths)]
    return Case("chunks that end anywhere", (tuple(requests),))


def _decode_beside_prefill(prompts: Prompts, chunk: int) -> Case:
    """Build requests whose decode steps are mixed into prefill batches, which SGLang does only if none asks
    for log-probabilities. Their continuations show through the cache what each such step has computed."""
    n = prompts.config.emb_neighbor_num
    longest = _longest(chunk) // 2
    lengths = [n + i * (longest - n) // (MIXED_REQUESTS - 1) for i in range(MIXED_REQUESTS)]
    requests = [
        Request(prompts.make(length, seed=150 + i), 4 * n, log_probabilities=False)
        for i, length in enumerate(lengths)
    ]
    # The first running request fills a chunk of one token: prefill waits until it has ended.
    kind = "mixed" if chunk > 1 else None
    return Case(
        "decode beside prefill",
        (tuple(requests),),
        continued=True,
        needs_cache_hits=True,
        needs_batches=kind,
    )


def _boundaries(chunk: int | None) -> Iterator[int]:
    if chunk is not None:
        yield chunk
        if chunk <= _LARGE_CHUNK:
            yield 2 * chunk


def _is_small(chunk: int | None) -> bool:
    return chunk is not None and chunk < _SMALL_CHUNK


def _longest(chunk: int | None) -> int:
    return _LONGEST_PROMPT_IN_SMALL_CHUNKS if _is_small(chunk) else _LONGEST_PROMPT


def _one_by_one(requests: Sequence[Request]) -> tuple[tuple[Request, ...], ...]:
    return tuple((request,) for request in requests)
