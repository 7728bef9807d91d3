"""Speculative decoding of the reference: greedy text, and drafts that are right where they should be."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from serval_sglang.checkpoint import load_mtp_layer, load_reference, random_state_dict, tiny_config
from serval_sglang.known_configs import TINY
from serval_sglang.reference import (
    ReferenceModel,
    SpeculativeRun,
    decode_speculatively,
    mtp_drafter,
)
from serval_testkit.scripted_drafts import (
    accepted_counts,
    continuation,
    token_before_end,
    write_scripted_checkpoint,
)

CONFIG = tiny_config(num_layers=1)
EOS = CONFIG.eos_token_id
# A third of all tokens, so that every number of right drafts occurs.
MISLEADING = frozenset(range(0, TINY.vocab_size, 3))


@pytest.fixture(scope="module")
def model() -> ReferenceModel:
    made = ReferenceModel(CONFIG)
    made.load_state_dict(random_state_dict(CONFIG, seed=0))
    return made.eval()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("scripted")
    write_scripted_checkpoint(directory, misleading=MISLEADING, num_layers=1)
    return directory


@pytest.fixture(scope="module")
def always_right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("right")
    write_scripted_checkpoint(directory, misleading=(), num_layers=1)
    return directory


def without_drafts(model: ReferenceModel, prompt: Sequence[int], length: int) -> list[int]:
    return decode_speculatively(model, prompt, lambda *_: [], steps=0, max_new_tokens=length).tokens


def nothing_right(sequence: Sequence[int], _: Tensor) -> list[int]:
    return [EOS, EOS, EOS]


def test_decode_speculatively_without_drafts_is_greedy_decoding(model: ReferenceModel) -> None:
    prompt, tokens = [5, 9, 30], [5, 9, 30]
    with torch.no_grad():
        for _ in range(6):
            tokens.append(int(model(torch.tensor([tokens]))[0, -1].argmax()))
    assert without_drafts(model, prompt, 6) == tokens[3:]


def test_decode_speculatively_accepts_drafts_up_to_first_wrong_one(model: ReferenceModel) -> None:
    prompt = [5, 9, 30]
    text = without_drafts(model, prompt, 12)
    wrong = (text[0] + 1) % CONFIG.vocab_size
    rights = iter([0, 2, 3, 1, 3])

    def scripted(sequence: Sequence[int], hidden: Tensor) -> list[int]:
        assert len(hidden) == len(sequence) - 1
        written, right = len(sequence) - len(prompt), next(rights)
        following = [*text, *[wrong] * 3][written : written + 3]
        return [*following[:right], *[wrong if token != wrong else EOS for token in following[right:]]]

    run = decode_speculatively(model, prompt, scripted, steps=3, max_new_tokens=11)
    assert run.tokens == text[:11]
    # 1 token from prefill, then one more than was accepted in each pass.
    assert run.accepted == [0, 2, 3, 1]
    assert (run.passes, run.right, run.right_by_position) == (4, 6, [3, 2, 1])


@pytest.mark.parametrize("limit", [1, 2, 40])
def test_decode_speculatively_ends_text_inside_an_accepted_run(always_right: Path, limit: int) -> None:
    model, layer = load_reference(always_right), load_mtp_layer(always_right)
    drafter = mtp_drafter(model, layer, steps=3)
    for distance in range(1, 6):
        last = token_before_end(distance)
        run = decode_speculatively(model, [9, last], drafter, steps=3, max_new_tokens=limit)
        assert run.tokens == continuation(last, distance)[:limit]
        # Tokens come four at a time behind the first, whether the text goes on or not.
        assert set(run.accepted) <= {3}


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_mtp_drafter_is_right_where_checkpoint_is_made_so(scripted: Path, steps: int) -> None:
    model, layer = load_reference(scripted), load_mtp_layer(scripted)
    last = token_before_end(60)
    run = decode_speculatively(
        model, [7, 8, last], mtp_drafter(model, layer, steps=steps), steps=steps, max_new_tokens=40
    )
    assert run.tokens == continuation(last, 40)
    expected = accepted_counts(continuation(last, 44), MISLEADING, steps=steps)
    assert run.accepted == expected[: run.passes]
    assert set(run.accepted) == set(range(steps + 1))


def test_mtp_drafter_is_always_wrong_where_checkpoint_is_made_so(tmp_path: Path) -> None:
    write_scripted_checkpoint(tmp_path, misleading=range(TINY.vocab_size), num_layers=1)
    model, layer = load_reference(tmp_path), load_mtp_layer(tmp_path)
    last = token_before_end(90)
    drafter = mtp_drafter(model, layer, steps=3)
    run = decode_speculatively(model, [last], drafter, steps=3, max_new_tokens=20)
    assert (run.tokens, run.accepted) == (continuation(last, 20), [0] * 19)


def test_count_of_right_drafts_notices_a_draft_from_the_wrong_embedding(scripted: Path) -> None:
    """The text does not."""
    model, layer = load_reference(scripted), load_mtp_layer(scripted)
    runs: list[SpeculativeRun] = []
    for words in (layer.embed_tokens.weight, model.model.embed_tokens.weight):
        layer.embed_tokens.weight = words
        drafter = mtp_drafter(model, layer, steps=3)
        runs.append(decode_speculatively(model, [token_before_end(60)], drafter, steps=3, max_new_tokens=20))
    assert runs[0].tokens == runs[1].tokens
    assert runs[0].right != runs[1].right


def test_run_that_ends_in_prefill_has_no_pass(model: ReferenceModel) -> None:
    run = decode_speculatively(model, [5, 9], nothing_right, steps=3, max_new_tokens=1)
    assert (len(run.tokens), run.passes, run.right_by_position) == (1, 0, [0, 0, 0])
