"""Windows and state against a token list per request, for runs of every length around n - 1."""

import random

import pytest
import torch

from serval_kernels.ngram_context import decode_history, decode_windows, extend_history, extend_windows

N = 4


def window_at(sequence: list[int], place: int) -> list[int]:
    return [sequence[place - d] if place >= d else 0 for d in range(N)]


def history_before(sequence: list[int], place: int) -> list[int]:
    return [sequence[i] if i >= 0 else 0 for i in range(place - N + 1, place)]


@pytest.mark.parametrize("lengths", [[1], [2, 0, 5], [0, 3, 1, 0, 0, 7, 2], [600], [0]])
@pytest.mark.parametrize("begin", [0, 1, 2, 3, 9])
def test_extend_windows_and_history_for_runs_of_any_length(lengths: list[int], begin: int) -> None:
    generator = random.Random(begin)
    sequences = [[generator.randrange(1, 50) for _ in range(begin + length)] for length in lengths]
    tokens = torch.tensor([t for s in sequences for t in s[begin:]], dtype=torch.int64)
    starts = torch.tensor([sum(lengths[:i]) for i in range(len(lengths))], dtype=torch.int32)
    history = torch.tensor([history_before(s, begin) for s in sequences], dtype=torch.int32)

    windows = extend_windows(tokens, history, starts)
    after = extend_history(tokens, history, starts, torch.tensor(lengths, dtype=torch.int32))

    assert windows.tolist() == [window_at(s, i) for s in sequences for i in range(begin, len(s))]
    assert after.tolist() == [history_before(s, len(s)) for s in sequences]


def test_extend_windows_ignore_padding_after_last_run() -> None:
    tokens, history, starts = torch.tensor([5, 6, 7]), torch.tensor([[1, 2, 3]]), torch.tensor([0])
    padded = torch.cat((tokens, torch.tensor([99, 99])))
    assert torch.equal(extend_windows(padded, history, starts)[:3], extend_windows(tokens, history, starts))
    lengths = torch.tensor([3])
    assert torch.equal(
        extend_history(padded, history, starts, lengths), extend_history(tokens, history, starts, lengths)
    )


def test_decode_windows_continue_extend_history() -> None:
    sequence = [11, 12, 13, 14, 15, 16]
    history = torch.tensor([history_before(sequence, 2)])
    for place in range(2, len(sequence)):
        windows = decode_windows(torch.tensor([sequence[place]]), history)
        assert windows.tolist() == [window_at(sequence, place)]
        history = decode_history(windows)
        assert history.tolist() == [history_before(sequence, place + 1)]
