"""The generated prompts cover what they promise, at every chunk size."""

from __future__ import annotations

import pytest

from serval_sglang.checkpoint.random import tiny_config
from serval_sglang.known_configs import TINY
from serval_sglang.verify.cases import (
    CONCURRENT_REQUESTS,
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
def test_every_request_fits_the_model(chunk: int | None) -> None:
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


def test_lengths_lie_around_the_look_back_and_around_chunks() -> None:
    lengths = prompt_lengths(TINY, 64)
    assert {1, 2, 3, 4, 5, 63, 64, 65, 66, 67, 127, 128, 129, 130, 131} <= set(lengths)
    assert TINY.rope_scaling is not None
    assert max(lengths) > 2 * TINY.rope_scaling.original_max_position_embeddings
    assert {1, 2, 3, 4, 5, 6, 7, 9} <= set(prompt_lengths(TINY, 3))


def test_ends_of_sequence_stand_at_every_place_of_the_window() -> None:
    places = [
        {len(r.prompt) - 1 - i for i, token in enumerate(r.prompt) if token == TINY.eos_token_id}
        for r in requests(case("end of sequence"))
    ]
    assert all({distance} in places for distance in range(N + 1))
    assert set(range(N + 1)) in places


def test_second_requests_share_exactly_the_prefix_of_the_first() -> None:
    asked = requests(case("cached prefixes"))
    shared = []
    for first, second in zip(asked[::2], asked[1::2], strict=True):
        pairs = zip(first.prompt, second.prompt, strict=False)
        shared.append(next(i for i, (a, b) in enumerate(pairs) if a != b))
    assert {1, 2, 3, 4, 64, 65, 128, 129} <= set(shared)


@pytest.mark.parametrize("chunk", CHUNKS)
def test_sixteen_requests_share_prefixes_that_are_cached_before(chunk: int | None) -> None:
    first, together = case("at once", chunk).waves
    assert len(together) == CONCURRENT_REQUESTS
    common = first[0].prompt
    assert sum(request.prompt[: len(common)] == common for request in together) >= 4
    assert sum(request.prompt[: len(common) // 3] == common[: len(common) // 3] for request in together) >= 12
    assert len({request.prompt for request in together}) == CONCURRENT_REQUESTS


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_small_chunks_get_short_prompts(chunk: int) -> None:
    """A forward pass for every chunk: long prompts would take minutes."""
    tokens = sum(len(r.prompt) for found in verification_cases(TINY, chunk=chunk) for r in requests(found))
    assert tokens < 1_000


def test_prompts_depend_on_the_seeds_alone() -> None:
    assert Prompts(TINY, 1).make(20, seed=2) == Prompts(TINY, 1).make(20, seed=2)
    others = [Prompts(TINY, 0).make(20, seed=2), Prompts(TINY, 1).make(20, seed=3)]
    assert Prompts(TINY, 1).make(20, seed=2) not in others


def test_a_case_that_met_no_cached_prefix_is_not_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(engine: object, prompt: tuple[int, ...], *, max_new_tokens: int) -> Generation:
        return Generation(prompt, [1], [{1: 0.0}], [], cached_tokens=0)

    monkeypatch.setattr("serval_sglang.verify.cases.generate", answer)
    engine: Engine = None  # type: ignore[assignment]  # not asked
    assert len(run_case(engine, case("end of sequence"))) == len(requests(case("end of sequence")))
    with pytest.raises(EngineFailed, match="cached prefixes: no request met a cached prefix"):
        run_case(engine, case("cached prefixes"))
