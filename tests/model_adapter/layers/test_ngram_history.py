"""History that the scheduler attaches to a batch, and its cost for a long context."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, SupportsIndex, overload

import pytest
import torch
from prometheus_client import REGISTRY

from serval_sglang.metrics.batches import BATCHES_METRIC

ngram_history = pytest.importorskip("serval_sglang.layers.ngram_history", reason="needs SGLang")
from sglang.srt.model_executor.forward_batch_info import ForwardMode  # noqa: E402
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm  # noqa: E402

LOOK_BACK = 3
NO_DRAFTS, DRAFTS = SpeculativeAlgorithm.NONE, SpeculativeAlgorithm.EAGLE


class CountedTokens(list[int]):
    """Counts the tokens that are read from it."""

    read = 0

    @overload
    def __getitem__(self, place: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> list[int]: ...
    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.read += len(found) if isinstance(found, list) else 1
        return found

    def __iter__(self) -> Any:
        self.read += len(self)
        return super().__iter__()

    def __add__(self, other: Any) -> Any:
        self.read += len(self)
        return super().__add__(other)


@pytest.fixture
def manager() -> Any:
    embedding = SimpleNamespace(look_back=LOOK_BACK, ring=torch.full((6, 8), 9, dtype=torch.int32))
    return ngram_history.RequestHistoryManager(
        enabled=False, table=None, n=LOOK_BACK + 1, embedding=embedding, counts_batches=False
    )


@pytest.fixture
def counter() -> Any:
    """The manager of a model without n-grams."""
    return ngram_history.BatchCounter(enabled=False, table=None, n=1, counts_batches=True)


def test_batch_counter_counts_and_attaches_nothing(counter: Any) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value(f"{BATCHES_METRIC}", {"kind": "extend"}) or 0.0

    before, given = counted(), batch(ForwardMode.EXTEND, reqs=[], prefix_lens=[])
    assert counter.prepare_for_forward(given, chunked_req=None) is given
    assert counter.prepare_for_forward(None, chunked_req=None) is None
    assert counted() == before + 1
    assert given.engram_history == "of the batch before"


def batch(mode: ForwardMode, *, speculative: SpeculativeAlgorithm = NO_DRAFTS, **fields: Any) -> Any:
    return SimpleNamespace(
        forward_mode=mode, spec_algorithm=speculative, engram_history="of the batch before", **fields
    )


@pytest.mark.parametrize("mode", [ForwardMode.EXTEND, ForwardMode.MIXED])
def test_prepare_for_forward_attaches_tokens_before_chunk(manager: Any, mode: ForwardMode) -> None:
    tokens = CountedTokens(range(100, 100_100))
    prefixes = [0, 2, 50_000]
    given = batch(mode, reqs=[SimpleNamespace(full_untruncated_fill_ids=tokens)] * 3, prefix_lens=prefixes)
    sent = manager.prepare_for_forward(given, chunked_req=None).engram_history
    assert sent.tolist() == [[0, 0, 0], [0, 100, 101], [50_097, 50_098, 50_099]]
    assert sent.dtype == torch.int32
    assert tokens.read <= LOOK_BACK * len(prefixes)


@pytest.mark.parametrize(
    ("speculative", "running_rows"), [(NO_DRAFTS, [[3, 4, 5], [3, 4, 5]]), (DRAFTS, [[-1, -1, -1]] * 2)]
)
def test_prepare_for_forward_has_running_rows_of_mixed_batch_read_ring(
    manager: Any, speculative: SpeculativeAlgorithm, running_rows: list[list[int]]
) -> None:
    """The host learns late how many drafts of a running request were accepted."""
    requests = [SimpleNamespace(full_untruncated_fill_ids=[1, 2, 3, 4, 5, 6]) for _ in range(3)]
    given = batch(
        ForwardMode.MIXED,
        speculative=speculative,
        reqs=requests,
        prefix_lens=[2, 5, 5],
        mix_running_indices=torch.tensor([1, 3]),
    )
    sent = manager.prepare_for_forward(given, chunked_req=None).engram_history
    assert sent.tolist() == [[0, 1, 2], *running_rows]


def test_prepare_for_forward_clears_history_of_decode_batch(manager: Any) -> None:
    assert manager.prepare_for_forward(batch(ForwardMode.DECODE), chunked_req=None).engram_history is None


@pytest.mark.parametrize(
    ("prompt", "output", "row"),
    [
        # Position p in column p mod 8; positions before the sequence hold 0.
        ([5], [6], [5, 9, 9, 9, 9, 9, 0, 0]),
        (list(range(1000, 101_000)), [7], [9, 9, 9, 9, 9, 100_997, 100_998, 100_999]),
        ([5, 6, 7, 8], [1, 2], [9, 9, 7, 8, 1, 9, 9, 9]),
        ([5], [1, 2, 3, 4, 5, 6], [9, 9, 9, 3, 4, 5, 9, 9]),
    ],
)
def test_prepare_for_forward_fills_slot_of_request_prefilled_elsewhere(
    manager: Any, prompt: list[int], output: list[int], row: list[int]
) -> None:
    tokens = CountedTokens(prompt)
    request = SimpleNamespace(origin_input_ids=tokens, output_ids=output, kv=SimpleNamespace(req_pool_idx=4))
    manager.prepare_for_forward(batch(ForwardMode.PREBUILT, reqs=[request]), chunked_req=None)
    assert manager.embedding.ring.tolist() == [[9] * 8] * 4 + [row] + [[9] * 8]
    assert tokens.read <= LOOK_BACK + 1


def test_prepare_for_forward_accepts_no_batch(manager: Any) -> None:
    assert manager.prepare_for_forward(None, chunked_req=None) is None


def test_prepare_for_forward_counts_batches_on_one_rank(manager: Any) -> None:
    counting = replace(manager, counts_batches=True)
    before = batches("decode"), batches("mixed")
    for rank in (counting, manager, counting):
        rank.prepare_for_forward(batch(ForwardMode.DECODE), chunked_req=None)
    counting.prepare_for_forward(batch(ForwardMode.MIXED, reqs=[], prefix_lens=[]), chunked_req=None)
    assert (batches("decode"), batches("mixed")) == (before[0] + 2, before[1] + 1)


def batches(kind: str) -> float:
    return REGISTRY.get_sample_value(BATCHES_METRIC, {"kind": kind}) or 0.0
