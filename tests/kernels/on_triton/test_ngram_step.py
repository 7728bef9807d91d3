"""The fused step against its torch reference and the definition, over batches of every shape."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serval_kernels.ngram_context import FROM_RING, ring_columns
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
from serval_testkit.speculative_passes import passes_with_rejections
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


def store(row: torch.Tensor, sequence: list[int]) -> None:
    """Store the tokens of a sequence in their columns of a ring's row."""
    for position, token in enumerate(sequence):
        row[position % len(row)] = token


def stored(row: torch.Tensor, sequence: list[int], sizes: NgramSizes) -> list[int]:
    """Return the tokens that a row holds at the last n - 1 positions of a sequence, 0 before it."""
    end = len(sequence)
    return [int(row[p % len(row)]) if p >= 0 else 0 for p in range(end - sizes.max_order + 1, end)]


@dataclass(frozen=True)
class Batch:
    """Sequences, each split into the tokens before and the run of this step."""

    sizes: NgramSizes
    before: list[list[int]]
    runs: list[list[int]]
    padding: list[int]
    slots: list[int]
    integers: torch.dtype
    width: int = 1  # tokens a request in a decode step

    def arguments(self) -> dict[str, object]:
        lengths = [len(run) for run in self.runs]
        return {
            "tokens": tensor([t for run in self.runs for t in run] + self.padding, self.integers),
            "slots": tensor(self.slots, self.integers),
            "positions": tensor(
                [
                    len(past) + i
                    for past, run in zip(self.before, self.runs, strict=True)
                    for i in range(len(run))
                ]
                + [0] * len(self.padding),
                self.integers,
            ),
            "starts": tensor([sum(lengths[:i]) for i in range(len(lengths))], self.integers),
            "lengths": tensor(lengths, self.integers),
            "ngram": constants(self.sizes),
            "eos_token_id": EOS,
        }

    def ring(self) -> torch.Tensor:
        columns = ring_columns(order=self.sizes.max_order, width=self.width)
        state = torch.full((9, columns), 7, dtype=torch.int32, device=DEVICE)
        for slot, sequence in zip(self.slots, self.before, strict=True):
            store(state[slot], sequence)
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
        width=draw(st.integers(1, 5)),
    )


ORDERS = st.sampled_from([nullcontext, programs_backwards])


@given(batches(), st.sampled_from(["ring", "caller", "both"]), ORDERS)
def test_extend_step_follows_definition(
    batch: Batch, source: str, order: Callable[[], AbstractContextManager[None]]
) -> None:
    arguments = batch.arguments()
    by_kernel = batch.ring()
    if source != "ring":  # a prefix found in a cache: the slots' contents do not matter
        before = tensor([history_at(past, batch.sizes) for past in batch.before], torch.int32)
        known = slice(None, None, 2 if source == "both" else 1)
        by_kernel[arguments["slots"].long()[known]] = 5
        if source == "both":  # every other request continues from the ring
            before[1::2] = FROM_RING
        arguments["before"] = before
    by_reference = by_kernel.clone()
    with order():
        rows = extend_step_triton(ring=by_kernel, **arguments)
    expected = batch.expected_rows()
    assert rows[: len(expected)].tolist() == expected
    for slot, past, run in zip(batch.slots, batch.before, batch.runs, strict=True):
        if run:
            assert stored(by_kernel[slot], past + run, batch.sizes) == history_at(past + run, batch.sizes)
    # Also for the rows of padding.
    assert torch.equal(rows, extend_step_reference(ring=by_reference, **arguments))
    assert torch.equal(by_kernel, by_reference)


@given(batches(), ORDERS)
def test_decode_step_follows_definition(
    batch: Batch, order: Callable[[], AbstractContextManager[None]]
) -> None:
    width = batch.width
    brought = [(run + [EOS] * width)[:width] for run in batch.runs]
    ring, arguments = batch.ring(), batch.arguments()
    tokens = tensor([token for run in brought for token in run], batch.integers)
    places = [len(past) + i for past in batch.before for i in range(width)]
    state = {
        "slots": arguments["slots"],
        "positions": tensor(places, batch.integers),
        "ngram": arguments["ngram"],
        "eos_token_id": EOS,
        "width": width,
    }
    by_reference = ring.clone()
    with order():
        rows = decode_step_triton(tokens, ring, **state)
    assert rows.tolist() == [
        row_ids_at(past + run, len(past) + i, batch.sizes, eos_token_id=EOS)
        for past, run in zip(batch.before, brought, strict=True)
        for i in range(width)
    ]
    assert torch.equal(rows, decode_step_reference(tokens, by_reference, **state))
    assert torch.equal(ring, by_reference)


@pytest.mark.parametrize("width", [1, 4])
def test_decode_step_forgets_rejected_tokens(width: int) -> None:
    passes = passes_with_rejections(
        decode_step_triton, extend_step_triton, width=width, passes=50, seed=width, device=DEVICE
    )
    for rows, expected in passes:
        assert rows == expected


def test_steps_continue_sequence_across_chunks_and_decode() -> None:
    sequence = [5, 9, EOS, 4, 4, 8, 1, EOS, EOS, 3, 7, 6, 2, 9]
    ring = torch.full((3, 4), 9, dtype=torch.int32, device=DEVICE)
    common = {"slots": tensor([1]), "ngram": constants(TINY_NGRAM), "eos_token_id": EOS}
    rows = []
    place = 0
    for length in (1, 0, 2, 5, 1):
        run = tensor(sequence[place : place + length])
        arguments = {"positions": tensor(list(range(place, place + length))), "starts": tensor([0])}
        rows += extend_step_triton(run, ring, lengths=tensor([length]), **arguments, **common).tolist()
        place += length
    for position in range(place, len(sequence)):
        token, positions = tensor([sequence[position]]), tensor([position])
        rows += decode_step_triton(token, ring, positions=positions, **common).tolist()
    assert rows == [row_ids_at(sequence, i, TINY_NGRAM, eos_token_id=EOS) for i in range(len(sequence))]
    assert ring[[0, 2]].tolist() == [[9] * 4] * 2


@pytest.mark.parametrize("length", [31, 32, 33, 70])
def test_extend_step_handles_runs_longer_than_block(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    sequences = [torch.randint(0, 5, (length,), generator=generator).tolist() for _ in range(3)]
    batch = Batch(TINY_NGRAM, [[], [3, 4], [1]], sequences, [], [2, 0, 1], torch.int32)
    rows = extend_step_triton(ring=batch.ring(), **batch.arguments())
    assert rows.tolist() == batch.expected_rows()


def test_extend_step_handles_only_end_of_sequence_tokens() -> None:
    batch = Batch(LITE_NGRAM, [[EOS] * 4], [[EOS] * 6], [], [0], torch.int64)
    rows = extend_step_triton(ring=batch.ring(), **batch.arguments())
    offsets = ngram_hash(vocab_size=131072, base=78 * 131072, max_order=4, splits=4).offsets
    assert rows.tolist() == [(offsets + EOS).tolist()] * 6


@pytest.mark.parametrize("requests", [0, 3])
def test_extend_step_without_tokens_keeps_state(requests: int) -> None:
    batch = Batch(TINY_NGRAM, [[1, 2, 3]] * requests, [[]] * requests, [], list(range(requests)), torch.int64)
    ring = batch.ring()
    kept = ring.clone()
    assert extend_step_triton(ring=ring, **batch.arguments()).shape == (0, TINY_NGRAM.tables)
    assert torch.equal(ring, kept)


def test_decode_step_ignores_slot_outside_state() -> None:
    ring = torch.full((2, 4), 5, dtype=torch.int32, device=DEVICE)
    common = {"slots": tensor([-1, 2, 2**40]), "ngram": constants(TINY_NGRAM), "eos_token_id": EOS}
    rows = decode_step_triton(tensor([4, 5, 6]), ring, positions=tensor([3, 4, 5]), **common)
    assert rows.tolist() == [row_ids_at([t], 0, TINY_NGRAM, eos_token_id=EOS) for t in (4, 5, 6)]
    assert ring.tolist() == [[5] * 4] * 2


@pytest.mark.parametrize("position", [-1, -(2**40), 2**40 + 3])
def test_decode_step_stays_inside_its_row_for_any_position(position: int) -> None:
    ring = torch.full((3, 8), 5, dtype=torch.int32, device=DEVICE)
    arguments = {
        "slots": tensor([1]),
        "positions": tensor([position] * 4),
        "ngram": constants(TINY_NGRAM),
        "eos_token_id": EOS,
        "width": 4,
    }
    by_reference = ring.clone()
    rows = decode_step_triton(tensor([4, 6, 7, 8]), ring, **arguments)
    assert ring[[0, 2]].tolist() == [[5] * 8] * 2
    assert torch.equal(rows, decode_step_reference(tensor([4, 6, 7, 8]), by_reference, **arguments))
    assert torch.equal(ring, by_reference)


@pytest.mark.parametrize("token", [-1, -(2**31), 2**31 - 1])
def test_decode_step_stays_inside_tables_for_any_token(token: int) -> None:
    ring = torch.full((1, 4), token, dtype=torch.int32, device=DEVICE)
    by_reference = ring.clone()
    common = {
        "slots": tensor([0]),
        "positions": tensor([7]),
        "ngram": constants(TINY_NGRAM),
        "eos_token_id": EOS,
    }
    tokens = tensor([token], torch.int32)
    rows = decode_step_triton(tokens, ring, **common)
    hashed = constants(TINY_NGRAM)
    assert ((rows >= hashed.offsets) & (rows < hashed.offsets + hashed.moduli)).all()
    assert torch.equal(rows, decode_step_reference(tokens, by_reference, **common))


def test_extend_step_stays_inside_memory_for_bad_starts() -> None:
    tokens, ring = tensor([3, 4, 5, 6, 7]), torch.ones(2, 4, dtype=torch.int32, device=DEVICE)
    hashed = constants(TINY_NGRAM)
    rows = extend_step_triton(
        tokens,
        ring,
        slots=tensor([0, 1]),
        positions=tensor([0, 1, 2, 3, 4]),
        starts=tensor([4, 9]),
        lengths=tensor([90, -7]),
        ngram=hashed,
        eos_token_id=EOS,
    )
    assert ((rows >= hashed.offsets) & (rows < hashed.offsets + hashed.moduli)).all()


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="CUDA graphs need a GPU: run pytest on a machine with one")
@pytest.mark.parametrize("width", [1, 4])
def test_decode_step_captured_in_graph_reads_new_tokens(width: int) -> None:
    tokens, positions = (tensor([0] * 2 * width) for _ in range(2))
    ring = torch.zeros(4, ring_columns(order=4, width=width), dtype=torch.int32, device=DEVICE)
    common = {
        "slots": tensor([1, 3]),
        "positions": positions,
        "ngram": constants(TINY_NGRAM),
        "eos_token_id": EOS,
        "width": width,
    }
    decode_step(tokens, ring.clone(), **common)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rows = decode_step(tokens, ring, **common)
    sequences = [[5, 6, EOS, 7, 8, 9, 3, 4], [9, 9, 4, 4, 3, EOS, 1, 0]]
    # Each pass accepts one token, and the next pass brings the others again.
    for place in range(9 - width):
        places = range(place, place + width)
        tokens.copy_(tensor([sequence[p] for sequence in sequences for p in places]))
        positions.copy_(tensor([*places, *places]))
        graph.replay()
        assert rows.tolist() == [
            row_ids_at(s, p, TINY_NGRAM, eos_token_id=EOS) for s in sequences for p in places
        ]
