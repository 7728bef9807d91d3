"""The torch path of the step: in-place state, any integer dtype, the caller's tokens instead of the state."""

import pytest
import torch

from serval_kernels.ngram_ids import ngram_hash
from serval_kernels.ngram_step import decode_step, extend_step
from serval_testkit.ngram_definition import TINY_NGRAM, history_at, row_ids_at

EOS = 2
HASH = ngram_hash(vocab_size=307, base=921, max_order=4, splits=4)
SEQUENCE = [5, 9, EOS, 4, 4, 8, 1]


@pytest.mark.parametrize("integers", [torch.int32, torch.int64])
def test_steps_extend_then_decode(integers: torch.dtype) -> None:
    history = torch.zeros(4, 3, dtype=torch.int32)
    common = {"slots": torch.tensor([2], dtype=integers), "ngram": HASH, "eos_token_id": EOS}
    rows = extend_step(
        torch.tensor(SEQUENCE[:4], dtype=integers),
        history,
        starts=torch.tensor([0], dtype=integers),
        lengths=torch.tensor([4], dtype=integers),
        **common,
    ).tolist()
    for token in SEQUENCE[4:]:
        rows += decode_step(torch.tensor([token], dtype=integers), history, **common).tolist()
    assert rows == [row_ids_at(SEQUENCE, i, TINY_NGRAM, eos_token_id=EOS) for i in range(7)]
    assert history.tolist() == [[0] * 3, [0] * 3, history_at(SEQUENCE, TINY_NGRAM), [0] * 3]


def test_extend_step_prefers_callers_tokens_to_state() -> None:
    history = torch.full((1, 3), 77)
    rows = extend_step(
        torch.tensor(SEQUENCE[5:]),
        history,
        slots=torch.tensor([0]),
        starts=torch.tensor([0]),
        lengths=torch.tensor([2]),
        before=torch.tensor([SEQUENCE[2:5]]),
        ngram=HASH,
        eos_token_id=EOS,
    )
    assert rows.tolist() == [row_ids_at(SEQUENCE, i, TINY_NGRAM, eos_token_id=EOS) for i in (5, 6)]
    assert history.tolist() == [SEQUENCE[-3:]]
