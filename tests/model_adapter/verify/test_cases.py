"""The generated prompts cover the promised situations at every chunk size."""

import pytest

from serval_sglang.checkpoint.random import tiny_config
from serval_sglang.known_configs import TINY
from serval_sglang.verify.cases import (
    CONCURRENT_REQUESTS,
    RESTORED_PREFIXES,
    Case,
    Prompts,
    Request,
    prompt_lengths,
    run_case,
    verification_cases,
)
from serval_sglang.verify.engine import Engine, EngineFailed, Generation

CHUNKS = (None, 1, 2, 3, 64, 4096)
N = TINY.emb_neighbor_num


def requests(case: Case) -> list[Request]:
    return [request for wave in case.waves for request in wave]


def case(name: str, chunk: int | None = 64) -> Case:
    (found,) = [case for case in verification_cases(TINY, chunk=chunk) if name in case.name]
    return found


@pytest.mark.parametrize("chunk", CHUNKS)
def test_cases_fit_the_model(chunk: int | None) -> None:
    config = (
        tiny_config(max_position_embeddings=64)
        if chunk != 4096
        else tiny_config(max_position_embeddings=5000)
    )
    for length in prompt_lengths(config, chunk):
        assert 1 <= length < config.max_position_embeddings
    for found in verification_cases(TINY, chunk=chunk):
        for request in requests(found):
            assert all(0 <= token < TINY.vocab_size for token in request.prompt)
            assert request.prompt


def test_prompt_lengths_lie_around_look_back_and_chunks() -> None:
    lengths = prompt_lengths(TINY, 64)
    assert {1, 2, 3, 4, 5, 63, 64, 65, 66, 67, 127, 128, 129, 130, 131} <= set(lengths)
    assert TINY.rope_scaling is not None
    assert max(lengths) > 2 * TINY.rope_scaling.original_max_position_embeddings
    assert {1, 2, 3, 4, 5, 6, 7, 9} <= set(prompt_lengths(TINY, 3))


def test_cases_have_end_of_sequence_at_every_place_of_window() -> None:
    places = [
        {len(r.prompt) - 1 - i for i, token in enumerate(r.prompt) if token == TINY.eos_token_id}
        for r in requests(case("end of sequence"))
    ]
    assert all({distance} in places for distance in range(N + 1))
    assert set(range(N + 1)) in places


def test_cached_prefixes_share_exactly_the_prefix() -> None:
    asked = requests(case("cached prefixes"))
    shared = []
    for first, second in zip(asked[::2], asked[1::2], strict=True):
        pairs = zip(first.prompt, second.prompt, strict=False)
        shared.append(next(i for i, (a, b) in enumerate(pairs) if a != b))
    assert {1, 2, 3, 4, 64, 65, 128, 129} <= set(shared)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_concurrent_requests_share_cached_prefixes(chunk: int | None) -> None:
    first, together = case("at once", chunk).waves
    assert len(together) == CONCURRENT_REQUESTS
    common = first[0].prompt
    assert sum(request.prompt[: len(common)] == common for request in together) >= 4
    assert sum(request.prompt[: len(common) // 3] == common[: len(common) // 3] for request in together) >= 12
    assert len({request.prompt for request in together}) == CONCURRENT_REQUESTS


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_cases_have_short_prompts_for_small_chunks(chunk: int) -> None:
    """Every chunk is a forward pass, so long prompts would take minutes."""
    tokens = sum(len(r.prompt) for found in verification_cases(TINY, chunk=chunk) for r in requests(found))
    assert tokens < 1_000


def test_prompts_depend_only_on_seeds() -> None:
    assert Prompts(TINY, 1).make(20, seed=2) == Prompts(TINY, 1).make(20, seed=2)
    others = [Prompts(TINY, 0).make(20, seed=2), Prompts(TINY, 1).make(20, seed=3)]
    assert Prompts(TINY, 1).make(20, seed=2) not in others


def answer_with(monkeypatch: pytest.MonkeyPatch, *, cached_tokens: int, restored: int = 0) -> list[Request]:
    """Answer every request with token 7; return the list of requests."""
    asked: list[Request] = []

    def answer(
        engine: object, prompt: tuple[int, ...], *, max_new_tokens: int, log_probabilities: bool
    ) -> Generation:
        asked.append(Request(prompt, max_new_tokens, log_probabilities))
        return Generation(prompt, [7], [{7: 0.0}], [], cached_tokens, restored)

    monkeypatch.setattr("serval_sglang.verify.cases.generate", answer)
    return asked


def test_run_case_requires_cache_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, cached_tokens=0)
    engine: Engine = None  # type: ignore[assignment]  # not asked
    assert len(run_case(engine, case("end of sequence"))) == len(requests(case("end of sequence")))
    with pytest.raises(EngineFailed, match="cached prefixes: no request met a cached prefix"):
        run_case(engine, case("cached prefixes"))


class CountingEngine:
    """Reports one more mixed batch each time it is asked, or never any."""

    def __init__(self, *, mixes: bool) -> None:
        self.mixes, self.batches = mixes, 0.0

    def metric_total(self, name: str, *, kind: str) -> float:
        assert (name, kind) == ("serval_engine_batches_total", "mixed")
        self.batches += self.mixes
        return self.batches


def mixed_case(chunk: int) -> Case:
    (found,) = [c for c in verification_cases(TINY, chunk=chunk, mixed=True) if "beside" in c.name]
    return found


@pytest.mark.parametrize("chunk", [1, 2, 3, 64])
def test_decode_beside_prefill_asks_for_no_log_probabilities(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    asked = answer_with(monkeypatch, cached_tokens=5)
    found = mixed_case(chunk)
    engine: Engine = CountingEngine(mixes=True)  # type: ignore[assignment]  # a stand-in
    run_case(engine, found)
    first, then = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    assert [request.prompt for request in then] == [(*request.prompt, 7) for request in first]
    assert not any(request.log_probabilities for request in first)
    assert all(request.log_probabilities and request.new_tokens > 1 for request in then)
    assert max(len(request.prompt) for request in first) > chunk


def test_run_case_requires_mixed_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, cached_tokens=5)
    engine: Engine = CountingEngine(mixes=False)  # type: ignore[assignment]  # a stand-in
    with pytest.raises(EngineFailed, match="the engine computed no mixed batch"):
        run_case(engine, mixed_case(64))
    # A chunk of one token has no room for another request.
    run_case(engine, mixed_case(1))


def test_cases_mix_only_if_requested() -> None:
    assert len(verification_cases(TINY, chunk=64, mixed=True)) == len(verification_cases(TINY, chunk=64)) + 1


def restored_case(chunk: int | None, kv_tokens: int = 4096) -> Case:
    *_, found = verification_cases(TINY, chunk=chunk, restored_from=kv_tokens)
    assert found.name == RESTORED_PREFIXES
    return found


@pytest.mark.parametrize("chunk", CHUNKS)
def test_restored_prefixes_have_left_the_device_before_they_are_met_again(chunk: int | None) -> None:
    asked = [request.prompt for request in requests(restored_case(chunk))]
    again = {}
    for place, prompt in enumerate(asked):
        for other in range(place):
            pairs = zip(asked[other], prompt, strict=False)
            shared = next(
                (i for i, (a, b) in enumerate(pairs) if a != b), min(len(prompt), len(asked[other]))
            )
            if 10 <= shared < len(prompt):
                again[place] = (shared, other)
    assert {10, 11, 12, 13} <= {shared for shared, _ in again.values()}
    for place, (_, other) in again.items():
        assert sum(len(prompt) for prompt in asked[other + 1 : place]) > 4096


def test_run_case_requires_prefixes_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Engine = None  # type: ignore[assignment]  # not asked
    answer_with(monkeypatch, cached_tokens=12, restored=12)
    run_case(engine, restored_case(64))
    answer_with(monkeypatch, cached_tokens=12)
    with pytest.raises(EngineFailed, match="from the host: no prefix came from the host's memory"):
        run_case(engine, restored_case(64))


def test_cases_restore_prefixes_only_with_host_cache() -> None:
    assert all(found.name != RESTORED_PREFIXES for found in verification_cases(TINY, chunk=64, mixed=True))
