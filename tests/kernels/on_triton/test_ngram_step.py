"""The fused step against its torch reference and the definition, over batches of every shape."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serval_kernels.ngram_ids import NgramHash, ngram_hash
from serval_kernels.ngram_step import (
    decode_step,
    decode_step_reference,
    decode_step_triton,
    extend_step_reference,
    extend_step_triton,
)
from serval_testkit.ngram_definition import (
    LITE_NGRAM,
    TINY_NGRAM,
    NgramSizes,
    history_at,
    row_ids_at,
)
from serval_testkit.triton_device import DEVICE, programs_backwards

EOS = 2
ODD = NgramSizes(vocab_size=11, base=29, max_order=3, splits=1)
BIGRAM = NgramSizes(vocab_size=11, base=29, max_order=2, splits=3)
SIXGRAM = NgramSizes(vocab_size=307, base=921, max_order=6, splits=1)
ALL_SIZES = (TINY_NGRAM, LITE_NGRAM, ODD, BIGRAM, SIXGRAM)


def constants(sizes: NgramSizes) -> NgramHash:
    hashed = ngram_hash(
        vocab_size=sizes.vocab_size, base=sizes.base, max_order=sizes.max_order, splits=sizes.splits
    )
    return NgramHash(*(part.to(DEVICE) for part in hashed))


def tensor(values: object, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, device=DEVICE)


@dataclass(frozen=True)
class Batch:
    """Sequences, each split into the tokens before and the run of this step."""

    sizes: NgramSizes
    before: list[list[int]]
    runs: list[list[int]]
    padding: list[int]
    slots: list[int]
    integers: torch.dtype

    def arguments(self) -> dict[str, object]:
        lengths = [len(run) for run in self.runs]
        return {
            "tokens": tensor([t for run in self.runs for t in run] + self.padding, self.integers),
            "slots": tensor(self.slots, self.integers),
            "starts": tensor([sum(lengths[:i]) for i in range(len(lengths))], self.integers),
            "lengths": tensor(lengths, self.integers),
            "ngram": constants(self.sizes),
            "eos_token_id": EOS,
        }

    def history(self) -> torch.Tensor:
        state = torch.full((9, self.sizes.max_order - 1), 7, dtype=torch.int32, device=DEVICE)
        for slot, sequence in zip(self.slots, self.before, strict=True):
            state[slot] = tensor(history_at(sequence, self.sizes), torch.int32)
        return state

    def expected_rows(self) -> list[list[int]]:
        return [
            row_ids_at(past + run, len(past) + i, self.sizes, eos_token_id=EOS)
            for past, run in zip(self.before, self.runs, strict=True)
            for i in range(len(run))
        ]


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    sizes = draw(st.sampled_from(ALL_SIZES))
    # End-of-sequence tokens are frequent, so that they occur at every distance.
    token = st.sampled_from([EOS, 0, 1, sizes.vocab_size - 1]) | st.integers(0, sizes.vocab_size - 1)
    requests = draw(st.integers(1, 5))
    return Batch(
        sizes=sizes,
        before=[draw(st.lists(token, max_size=5)) for _ in range(requests)],
        runs=[draw(st.lists(token, max_size=7)) for _ in range(requests)],
        padding=draw(st.lists(token, max_size=4)),
        slots=draw(st.permutations(range(9)))[:requests],
        integers=draw(st.sampled_from([torch.int32, torch.int64])),
    )


ORDERS = st.sampled_from([nullcontext, programs_backwards])


@given(batches(), st.booleans(), ORDERS)
def test_extend_step_follows_definition(
    batch: Batch, from_caller: bool, order: Callable[[], AbstractContextManager[None]]
) -> None:
    arguments = batch.arguments()
    by_kernel, by_reference = batch.history(), batch.history()
    if from_caller:  # a prefix found in a cache: the slots' contents do not matter
        arguments["before"] = by_kernel[arguments["slots"].long()]
        by_kernel[arguments["slots"].long()] = 5
        by_reference.copy_(by_kernel)
    with order():
        rows = extend_step_triton(history=by_kernel, **arguments)
    expected = batch.expected_rows()
    assert rows[: len(expected)].tolist() == expected
    for slot, past, run in zip(batch.slots, batch.before, batch.runs, strict=True):
        assert by_kernel[slot].tolist() == history_at(past + run, batch.sizes)
    # Also for the rows of padding.
    assert torch.equal(rows, extend_step_reference(history=by_reference, **arguments))
    assert torch.equal(by_kernel, by_reference)


@given(batches())
def test_decode_step_follows_definition(batch: Batch) -> None:
    newest = [run[0] if run else EOS for run in batch.runs]
    history, arguments = batch.history(), batch.arguments()
    tokens = tensor(newest, batch.integers)
    state = {"slots": arguments["slots"], "ngram": arguments["ngram"], "eos_token_id": EOS}
    by_reference = history.clone()
    rows = decode_step_triton(tokens, history, **state)
    assert rows.tolist() == [
        row_ids_at([*past, token], len(past), batch.sizes, eos_token_id=EOS)
        for past, token in zip(batch.before, newest, strict=True)
    ]
    assert torch.equal(rows, decode_step_reference(tokens, by_reference, **state))
    assert torch.equal(history, by_reference)


def test_steps_continue_sequence_across_chunks_and_decode() -> None:
    sequence = [5, 9, EOS, 4, 4, 8, 1, EOS, EOS, 3, 7, 6, 2, 9]
    history = torch.zeros(3, 3, dtype=torch.int32, device=DEVICE)
    common = {"slots": tensor([1]), "ngram": constants(TINY_NGRAM), "eos_token_id": EOS}
    rows = []
    place = 0
    for length in (1, 0, 2, 5, 1):
        run = tensor(sequence[place : place + length])
        lengths = tensor([length])
        rows += extend_step_triton(run, history, starts=tensor([0]), lengths=lengths, **common).tolist()
        place += length
    for token in sequence[place:]:
        rows += decode_step_triton(tensor([token]), history, **common).tolist()
    assert rows == [row_ids_at(sequence, i, TINY_NGRAM, eos_token_id=EOS) for i in range(len(sequence))]
    assert history.tolist() == [[0, 0, 0], sequence[-3:], [0, 0, 0]]


@pytest.mark.parametrize("length", [31, 32, 33, 70])
def test_extend_step_handles_runs_longer_than_block(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    sequences = [torch.randint(0, 5, (length,), generator=generator).tolist() for _ in range(3)]
    batch = Batch(TINY_NGRAM, [[], [3, 4], [1]], sequences, [], [2, 0, 1], torch.int32)
    rows = extend_step_triton(history=batch.history(), **batch.arguments())
    assert rows.tolist() == batch.expected_rows()


def test_extend_step_handles_only_end_of_sequence_tokens() -> None:
    batch = Batch(LITE_NGRAM, [[EOS] * 4], [[EOS] * 6], [], [0], torch.int64)
    rows = extend_step_triton(history=batch.history(), **batch.arguments())
    offsets = ngram_hash(vocab_size=131072, base=78 * 131072, max_order=4, splits=4).offsets
    assert rows.tolist() == [(offsets + EOS).tolist()] * 6


@pytest.mark.parametrize("requests", [0, 3])
def test_extend_step_without_tokens_keeps_state(requests: int) -> None:
    batch = Batch(TINY_NGRAM, [[1, 2, 3]] * requests, [[]] * requests, [], list(range(requests)), torch.int64)
    history = batch.history()
    kept = history.clone()
    assert extend_step_triton(history=history, **batch.arguments()).shape == (0, TINY_NGRAM.tables)
    assert torch.equal(history, kept)


def test_decode_step_ignores_slot_outside_state() -> None:
    history = torch.full((2, 3), 5, dtype=torch.int32, device=DEVICE)
    common = {"slots": tensor([-1, 2, 2**40]), "ngram": constants(TINY_NGRAM), "eos_token_id": EOS}
    rows = decode_step_triton(tensor([4, 5, 6]), history, **common)
    assert rows.tolist() == [row_ids_at([t], 0, TINY_NGRAM, eos_token_id=EOS) for t in (4, 5, 6)]
    assert history.tolist() == [[5, 5, 5]] * 2


@pytest.mark.parametrize("token", [-1, -(2**31), 2**31 - 1])
def test_decode_step_stays_inside_tables_for_any_token(token: int) -> None:
    history = torch.full((1, 3), token, dtype=torch.int32, device=DEVICE)
    by_reference = history.clone()
    common = {"slots": tensor([0]), "ngram": constants(TINY_NGRAM), "eos_token_id": EOS}
    tokens = tensor([token], torch.int32)
    rows = decode_step_triton(tokens, history, **common)
    hashed = constants(TINY_NGRAM)
    assert ((rows >= hashed.offsets) & (rows < hashed.offsets + hashed.moduli)).all()
    assert torch.equal(rows, decode_step_reference(tokens, by_reference, **common))


def test_extend_step_stays_inside_memory_for_bad_starts() -> None:
    tokens, history = tensor([3, 4, 5, 6, 7]), torch.ones(2, 3, dtype=torch.int32, device=DEVICE)
    hashed = constants(TINY_NGRAM)
    rows = extend_step_triton(
        tokens,
        history,
        slots=tensor([0, 1]),
        starts=tensor([4, 9]),
        lengths=tensor([90, -7]),
        ngram=hashed,
        eos_token_id=EOS,
    )
    assert ((rows >= hashed.offsets) & (rows < hashed.offsets + hashed.moduli)).all()


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="CUDA graphs need a GPU: run pytest on a machine with one")
def test_decode_step_captured_in_graph_reads_new_tokens() -> None:
    tokens, history = tensor([0, 0]), torch.zeros(4, 3, dtype=torch.int32, device=DEVICE)
    slots = tensor([1, 3])
    common = {"slots": slots, "ngram": constants(TINY_NGRAM), "eos_token_id": EOS}
    decode_step(tokens, history.clone(), **common)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rows = decode_step(tokens, history, **common)
    history.zero_()
    sequences = [[5, 6, EOS, 7, 8], [9, 9, 4, 4, 3]]
    for place in range(5):
        tokens.copy_(tensor([sequence[place] for sequence in sequences]))
        graph.replay()
        assert rows.tolist() == [row_ids_at(s, place, TINY_NGRAM, eos_token_id=EOS) for s in sequences]
