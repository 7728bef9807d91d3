"""The torch path of the step: ring in place, any integer dtype, the caller's tokens instead of the ring."""

import pytest
import torch

from serval_kernels.ngram_context import FROM_RING
from serval_kernels.ngram_ids import ngram_hash
from serval_kernels.ngram_step import decode_step, extend_step
from serval_testkit.ngram_definition import TINY_NGRAM, row_ids_at
from serval_testkit.speculative_passes import passes_with_rejections

EOS = 2
HASH = ngram_hash(vocab_size=307, base=921, max_order=4, splits=4)
SEQUENCE = [5, 9, EOS, 4, 4, 8, 1]


@pytest.mark.parametrize("integers", [torch.int32, torch.int64])
def test_steps_extend_then_decode(integers: torch.dtype) -> None:
    ring = torch.full((4, 4), 9, dtype=torch.int32)
    common = {"slots": torch.tensor([2], dtype=integers), "ngram": HASH, "eos_token_id": EOS}
    rows = extend_step(
        torch.tensor(SEQUENCE[:4], dtype=integers),
        ring,
        positions=torch.arange(4, dtype=integers),
        starts=torch.tensor([0], dtype=integers),
        lengths=torch.tensor([4], dtype=integers),
        **common,
    ).tolist()
    for place in range(4, 7):
        token, positions = (torch.tensor([value], dtype=integers) for value in (SEQUENCE[place], place))
        rows += decode_step(token, ring, positions=positions, **common).tolist()
    assert rows == [row_ids_at(SEQUENCE, i, TINY_NGRAM, eos_token_id=EOS) for i in range(7)]
    # Positions 4 to 6 are in columns 0 to 2, position 3 in column 3.
    assert ring.tolist() == [[9] * 4, [9] * 4, [*SEQUENCE[4:], SEQUENCE[3]], [9] * 4]


@pytest.mark.parametrize("first_of_before", [SEQUENCE[2], FROM_RING])
def test_extend_step_prefers_callers_tokens_to_ring(first_of_before: int) -> None:
    ring = torch.tensor([[70, 71, 72, 73]])
    if first_of_before == FROM_RING:
        ring = torch.tensor([[SEQUENCE[4], 71, SEQUENCE[2], SEQUENCE[3]]])
    rows = extend_step(
        torch.tensor(SEQUENCE[5:]),
        ring,
        slots=torch.tensor([0]),
        positions=torch.tensor([5, 6]),
        starts=torch.tensor([0]),
        lengths=torch.tensor([2]),
        before=torch.tensor([[first_of_before, *SEQUENCE[3:5]]]),
        ngram=HASH,
        eos_token_id=EOS,
    )
    assert rows.tolist() == [row_ids_at(SEQUENCE, i, TINY_NGRAM, eos_token_id=EOS) for i in (5, 6)]
    assert [ring[0, position % 4].item() for position in (4, 5, 6)] == SEQUENCE[-3:]


@pytest.mark.parametrize("width", [1, 2, 4])
def test_decode_step_forgets_rejected_tokens(width: int) -> None:
    for rows, expected in passes_with_rejections(
        decode_step, extend_step, width=width, passes=50, seed=width
    ):
        assert rows == expected


@pytest.mark.parametrize("width", [1, 4])
def test_decode_step_on_shifted_ring_is_noticed(width: int) -> None:
    """The test above can fail."""

    def shifted(tokens: torch.Tensor, ring: torch.Tensor, **options: object) -> torch.Tensor:
        ring.copy_(ring.roll(1, 1))
        return decode_step(tokens, ring, **options)

    passes = passes_with_rejections(shifted, extend_step, width=width, passes=5, seed=0)
    assert any(rows != expected for rows, expected in passes)
