"""Windows and ring against a token list per request, for runs of every length around n - 1."""

import random

import pytest
import torch

from serval_kernels.ngram_context import (
    decode_windows,
    extend_windows,
    last_tokens,
    read_ring,
    ring_columns,
    write_ring,
)

N = 4


def window_at(sequence: list[int], place: int) -> list[int]:
    return [sequence[place - d] if place >= d else 0 for d in range(N)]


def tokens_before(sequence: list[int], place: int) -> list[int]:
    return [sequence[i] if i >= 0 else 0 for i in range(place - N + 1, place)]


@pytest.mark.parametrize("lengths", [[1], [2, 0, 5], [0, 3, 1, 0, 0, 7, 2], [600], [0, 1]])
@pytest.mark.parametrize("begin", [0, 1, 2, 3, 9])
def test_extend_windows_and_last_tokens_for_runs_of_any_length(lengths: list[int], begin: int) -> None:
    generator = random.Random(begin)
    sequences = [[generator.randrange(1, 50) for _ in range(begin + length)] for length in lengths]
    tokens = torch.tensor([t for s in sequences for t in s[begin:]], dtype=torch.int64)
    starts = torch.tensor([sum(lengths[:i]) for i in range(len(lengths))], dtype=torch.int32)
    before = torch.tensor([tokens_before(s, begin) for s in sequences], dtype=torch.int32)

    windows = extend_windows(tokens, before, starts)
    last = last_tokens(tokens, before, starts, torch.tensor(lengths, dtype=torch.int32))

    assert windows.tolist() == [window_at(s, i) for s in sequences for i in range(begin, len(s))]
    assert last.tolist() == [tokens_before(s, len(s)) for s in sequences]


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("begin", [0, 1, 2, 3, 9])
def test_decode_windows_for_passes_of_any_width(width: int, begin: int) -> None:
    sequences = [list(range(11, 11 + begin + width)), list(range(51, 51 + begin + width))]
    tokens = torch.tensor([sequence[begin:] for sequence in sequences], dtype=torch.int32)
    before = torch.tensor([tokens_before(sequence, begin) for sequence in sequences], dtype=torch.int32)
    windows = decode_windows(tokens, before)
    assert windows.tolist() == [window_at(s, i) for s in sequences for i in range(begin, len(s))]


def test_extend_windows_ignore_padding_after_last_run() -> None:
    tokens, before, starts = torch.tensor([5, 6, 7]), torch.tensor([[1, 2, 3]]), torch.tensor([0])
    padded = torch.cat((tokens, torch.tensor([99, 99])))
    assert torch.equal(extend_windows(padded, before, starts)[:3], extend_windows(tokens, before, starts))
    lengths = torch.tensor([3])
    assert torch.equal(
        last_tokens(padded, before, starts, lengths), last_tokens(tokens, before, starts, lengths)
    )


@pytest.mark.parametrize(
    ("order", "width", "columns"),
    [(4, 1, 4), (4, 2, 8), (4, 4, 8), (4, 5, 8), (4, 6, 16), (2, 1, 2), (2, 2, 4)],
)
def test_ring_columns_hold_pass_and_look_back(order: int, width: int, columns: int) -> None:
    assert ring_columns(order=order, width=width) == columns


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4, 5, 11])
def test_read_ring_returns_what_was_written_before_position(first: int) -> None:
    sequence = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22]
    ring = torch.full((3, 8), 77, dtype=torch.int32)  # left by another request
    slots = torch.tensor([2])
    for place in range(first):
        write_ring(ring, slots, torch.tensor([place]), torch.tensor([[sequence[place]]]))
    # Drafts that are rejected.
    write_ring(ring, slots, torch.tensor([first]), torch.tensor([[91, 92, 93, 94]]))
    before = read_ring(ring, slots, torch.tensor([first]), look_back=N - 1)
    assert before.tolist() == [tokens_before(sequence, first)]
    assert ring[:2].tolist() == [[77] * 8] * 2


def test_write_ring_leaves_rows_that_are_not_written() -> None:
    ring = torch.full((2, 4), 7)
    tokens = torch.tensor([[1, 2], [3, 4]])
    write_ring(ring, torch.tensor([0, 1]), torch.tensor([3, 3]), tokens, written=torch.tensor([False, True]))
    assert ring.tolist() == [[7, 7, 7, 7], [4, 7, 7, 3]]
