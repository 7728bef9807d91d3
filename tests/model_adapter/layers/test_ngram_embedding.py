"""The embedding of one rank at a time, without an engine: stand-ins for groups, batches made by hand."""

from array import array
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from serval_kernels.row_quantization import dequantize_rows, quantize_rows
from serval_sglang.checkpoint.layout import table_name
from serval_sglang.checkpoint.random import tiny_config
from serval_sglang.config import LongcatConfig
from serval_sglang.known_configs import LITE
from serval_sglang.layers.ngram_tables import TableStorage
from serval_sglang.reference.ngram import NgramEmbeddings

embedding = pytest.importorskip("serval_sglang.layers.ngram_embedding", reason="needs SGLang")
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch  # noqa: E402
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool  # noqa: E402
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode  # noqa: E402
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo  # noqa: E402
from sglang.srt.sampling.sampling_params import SamplingParams  # noqa: E402

from serval_sglang.layers.ngram_history import RequestHistoryManager  # noqa: E402

CONFIG = tiny_config(hidden_size=96)
EOS = CONFIG.eos_token_id
Batch = tuple[Tensor, SimpleNamespace]


class StandInGroup:
    """Records the tensors that it is asked to sum."""

    def __init__(self) -> None:
        self.reduced: list[Tensor] = []

    def all_reduce(self, partial: Tensor) -> Tensor:
        self.reduced.append(partial)
        return partial


class StandInWords(nn.Module):
    """Stands in for VocabParallelEmbedding of one rank: its rows, zero elsewhere."""

    ranks = (0, 1)  # rank, size

    def __init__(self, rows: int, width: int, *, use_attn_tp_group: bool) -> None:
        super().__init__()
        self.use_attn_tp_group = use_attn_tp_group
        self.weight = nn.Parameter(torch.empty(rows, width), requires_grad=False)

    def _embed_local_shard(self, tokens: Tensor) -> Tensor:
        rank, size = self.ranks
        return self.weight[tokens] * (tokens % size == rank)[:, None]


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that builds the embedding of one rank."""

    def make(
        config: LongcatConfig = CONFIG,
        storage: TableStorage | None = None,
        *,
        rank: int = 0,
        size: int = 1,
        attention_dp: bool = False,
        width: int = 4,
    ) -> Any:
        parallel = SimpleNamespace(
            # Under attention DP the whole TP group is larger than the ranks that share tokens.
            tp_group=StandInGroup(), tp_rank=rank + (size if attention_dp else 0),
            tp_size=size * (2 if attention_dp else 1),
            attn_tp_group=StandInGroup(), attn_tp_rank=rank, attn_tp_size=size,
        )  # fmt: skip
        monkeypatch.setattr(embedding, "get_parallel", lambda: parallel)
        monkeypatch.setattr(embedding, "is_dp_attention_enabled", lambda: attention_dp)
        monkeypatch.setattr(embedding, "VocabParallelEmbedding", StandInWords)
        monkeypatch.setattr(StandInWords, "ranks", (rank, size))
        made = embedding.NgramEmbedding(
            config.vocab_size,
            config.hidden_size,
            over_embedding_m=config.ngram_base,
            over_embedding_k=config.emb_split_num,
            over_embedding_n=config.emb_neighbor_num,
            eos_token_id=config.eos_token_id,
        )
        made.allocate_tables(storage or TableStorage())
        made.allocate_ring(8, "cpu", width=width)
        made.parallel = parallel
        return made

    return make


def tensors(codes: torch.dtype | None = None) -> tuple[dict[str, Tensor], nn.Embedding, NgramEmbeddings]:
    """Return a checkpoint's n-gram tensors, the word embedding, and the reference with the same values."""
    torch.manual_seed(4)
    reference = NgramEmbeddings(CONFIG).eval()
    words = nn.Embedding(CONFIG.vocab_size, CONFIG.hidden_size)
    stored: dict[str, Tensor] = {}
    for i, (table, projection) in enumerate(zip(reference.embedders, reference.post_projs, strict=True)):
        nn.init.normal_(table.weight)
        stored[f"model.ngram_embeddings.post_projs.{i}.weight"] = projection.weight.detach()
        if codes is None:
            stored[table_name(i)] = table.weight.detach()
            continue
        coded = quantize_rows(table.weight.detach(), codes)
        stored[table_name(i)], stored[table_name(i, part="weight_scale")] = coded
        table.weight.data = dequantize_rows(coded, dtype=torch.float32)
    return stored, words, reference


def fill(made: Any, stored: dict[str, Tensor], words: nn.Embedding) -> None:
    made.word_embeder.weight.data = words.weight.detach()
    for name, tensor in stored.items():
        made.load_weight(None, name, tensor)


def extend(
    runs: Sequence[Sequence[int]],
    before: Sequence[Sequence[int]] | None,
    slots: Sequence[int],
    places: Sequence[int] | None = None,
) -> Batch:
    """Return the tokens and batch of runs whose first tokens are at `places`, by default 0."""
    lengths = torch.tensor([len(run) for run in runs], dtype=torch.int32)
    first = [0] * len(runs) if places is None else places
    return torch.tensor([token for run in runs for token in run]), SimpleNamespace(
        forward_mode=ForwardMode.EXTEND,
        req_pool_indices=torch.tensor(slots),
        positions=torch.tensor([p + i for p, run in zip(first, runs, strict=True) for i in range(len(run))]),
        engram_history=None if before is None else torch.tensor(before, dtype=torch.int32),
        extend_start_loc=(lengths.cumsum(0) - lengths).int(),
        extend_seq_lens=lengths,
    )


def decode(tokens: Sequence[int], slots: Sequence[int], places: Sequence[int]) -> Batch:
    return torch.tensor(tokens), SimpleNamespace(
        forward_mode=ForwardMode.DECODE,
        req_pool_indices=torch.tensor(slots),
        positions=torch.tensor(places),
    )


def verify(runs: Sequence[Sequence[int]], slots: Sequence[int], places: Sequence[int]) -> Batch:
    """Return the tokens and batch of a verify pass, each request's run as long as the others'."""
    width = len(runs[0])
    return torch.tensor([token for run in runs for token in run]), SimpleNamespace(
        forward_mode=ForwardMode.TARGET_VERIFY,
        req_pool_indices=torch.tensor(slots),
        positions=torch.tensor([place + i for place in places for i in range(width)]),
        spec_info=SimpleNamespace(draft_token_num=width),
    )


SEQUENCE = [5, 9, EOS, 7, 7, 8, 30, 31, EOS, EOS, 4]


def expected(
    reference: NgramEmbeddings, words: nn.Embedding, sequence: Sequence[int] = tuple(SEQUENCE)
) -> Tensor:
    tokens = torch.tensor([list(sequence)])
    with torch.no_grad():
        return reference(tokens, words(tokens))[0]


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("codes", [None, torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_ngram_embedding_partial_sums_add_up_to_reference(
    build: Any, size: int, codes: torch.dtype | None, place: Any
) -> None:
    stored, words, reference = tensors(codes)
    total = torch.zeros(len(SEQUENCE), CONFIG.hidden_size)
    for rank in range(size):
        made = build(storage=TableStorage(place=place, code_dtype=codes), rank=rank, size=size)
        fill(made, stored, words)
        total += made(*extend([SEQUENCE], [[0, 0, 0]], [3]))
        # One collective completes word rows and n-gram rows.
        assert len(made.parallel.tp_group.reduced) == (size > 1)
    torch.testing.assert_close(total, expected(reference, words), rtol=1e-5, atol=1e-5)


def test_ngram_embedding_under_attention_dp_sums_within_group(build: Any) -> None:
    stored, words, reference = tensors()
    total = torch.zeros(len(SEQUENCE), CONFIG.hidden_size)
    for rank in range(2):
        made = build(rank=rank, size=2, attention_dp=True)
        assert made.word_embeder.use_attn_tp_group
        fill(made, stored, words)
        total += made(*extend([SEQUENCE], [[0, 0, 0]], [3]))
        assert (len(made.parallel.attn_tp_group.reduced), len(made.parallel.tp_group.reduced)) == (1, 0)
    torch.testing.assert_close(total, expected(reference, words), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cuts", [[1], [2, 3], [1, 2, 3, 4], [6, 10]])
def test_ngram_embedding_continues_across_chunks_and_decode(build: Any, cuts: list[int]) -> None:
    stored, words, reference = tensors()
    made = build()
    fill(made, stored, words)
    made.ring.fill_(9)  # of requests that had these slots before
    parts, slot = [], 1
    for start, end in zip([0, *cuts[:-1]], cuts, strict=True):
        before = [0, 0, 0, *SEQUENCE[:start]][-3:]
        slot += 1  # as after a retraction: the history is not in the new slot
        # A second request of one token in the same batch, as a mixed batch treats a decode row.
        runs = [SEQUENCE[start:end], [6]]
        parts.append(made(*extend(runs, [before, [1, 1, 1]], [slot, 7], [start, 12]))[:-1])
    for place in range(cuts[-1], len(SEQUENCE)):
        # Padding of a graph repeats slot 0.
        parts.append(made(*decode([SEQUENCE[place], 0, 0], [slot, 0, 0], [place, 0, 0]))[:1])
    torch.testing.assert_close(torch.cat(parts), expected(reference, words), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("accepted", [[1] * 10, [4, 4, 2], [1, 2, 3, 4], [3, 1, 4, 1, 1]])
@pytest.mark.parametrize("width", [4, 3])
def test_ngram_embedding_verifies_drafts_of_which_some_are_rejected(
    build: Any, accepted: list[int], width: int
) -> None:
    """A second request in the batch accepts other numbers of tokens than the first."""
    stored, words, reference = tensors()
    made = build(width=width)
    fill(made, stored, words)
    made.ring.fill_(9)  # of requests that had these slots before
    made(*extend([SEQUENCE[:1], SEQUENCE[:2]], [[0, 0, 0]] * 2, [3, 5]))
    ends = [1, 2]
    rejected = [EOS, 6, 7, 9]
    for number, count in enumerate(accepted):
        counts = [min(count, width), min(accepted[-1 - number], width)]
        runs = [
            (SEQUENCE[end : end + right] + rejected)[:width] for end, right in zip(ends, counts, strict=True)
        ]
        # Padding of a graph repeats slot 0; attention DP may add tokens of no request.
        tokens, batch = verify([*runs, [0] * width], [3, 5, 0], [*ends, 0])
        got = made(F.pad(tokens, (0, 1)), batch)
        for row, (end, run) in enumerate(zip(ends, runs, strict=True)):
            sequence = torch.tensor([SEQUENCE[:end] + run])
            with torch.no_grad():
                wanted = reference(sequence, words(sequence))[0, end:]
            torch.testing.assert_close(got[row * width :][:width], wanted, rtol=1e-5, atol=1e-5)
        ends = [min(end + right, len(SEQUENCE)) for end, right in zip(ends, counts, strict=True)]
        if max(ends) == len(SEQUENCE):
            break
    # A later prefill chunk, as of a mixed batch, continues from the ring where the host does not know.
    chunk = extend([[7, 8], [3]], [[-1, -1, -1], [0, 0, 0]], [3, 6], [ends[0], 0])
    sequence = torch.tensor([[*SEQUENCE[: ends[0]], 7, 8]])
    with torch.no_grad():
        wanted = reference(sequence, words(sequence))[0, -2:]
    torch.testing.assert_close(made(*chunk)[:2], wanted, rtol=1e-5, atol=1e-5)


def test_ngram_embedding_reads_slots_of_relabelled_decode_batch(build: Any) -> None:
    """Attention DP relabels the batch of a rank that decodes while others prefill, and pads it."""
    stored, words, reference = tensors()
    made = build(attention_dp=True)
    fill(made, stored, words)
    made(*extend([SEQUENCE[:-1]], [[0, 0, 0]], [3]))
    tokens, batch = extend([[SEQUENCE[-1]]], None, [3], [len(SEQUENCE) - 1])
    batch.positions = F.pad(batch.positions, (0, 4))
    got = made(F.pad(tokens, (0, 4)), batch)
    torch.testing.assert_close(got[0], expected(reference, words)[-1], rtol=1e-5, atol=1e-5)
    end = len(SEQUENCE)
    assert [int(made.ring[3, place % made.ring.shape[1]]) for place in range(end - 3, end)] == SEQUENCE[-3:]


def test_ngram_embedding_decodes_request_prefilled_elsewhere(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disaggregated prefill with SGLang's own batches: the prebuilt batch that brings the request, without a
    forward pass, and the batches that decode it."""
    # Sampling reads flags of a running engine and does not matter here.
    monkeypatch.setattr(SamplingBatchInfo, "from_schedule_batch", lambda *_: None)
    stored, words, reference = tensors()
    made = build()
    fill(made, stored, words)
    made.ring.fill_(9)  # of requests that had these slots before
    manager = RequestHistoryManager(enabled=False, table=None, n=made.look_back + 1, embedding=made)
    pool = ReqToTokenPool(size=7, max_context_len=64, device="cpu", enable_memory_saver=False)
    prompt, sampled = SEQUENCE[:-3], SEQUENCE[-3]
    request = Req("r", "", array("q", prompt), SamplingParams(temperature=0, max_new_tokens=8))
    request.output_ids.append(sampled)
    request.full_untruncated_fill_ids = array("q", prompt)
    request.extend_end = len(prompt)
    pool.alloc([request])
    batch = ScheduleBatch(
        reqs=[request],
        req_to_token_pool=pool,
        model_config=SimpleNamespace(vocab_size=CONFIG.vocab_size),
        device="cpu",
    )
    batch.prepare_for_prebuilt()
    assert manager.prepare_for_forward(batch, chunked_req=None).forward_mode.is_prebuilt()
    steps = []
    for length, token in enumerate([sampled, *SEQUENCE[-2:]], start=len(prompt) + 1):
        # The running batch is the prebuilt one from here on.
        batch.forward_mode = ForwardMode.DECODE
        assert manager.prepare_for_forward(batch, chunked_req=None).engram_history is None
        forward = ForwardBatch(
            forward_mode=batch.forward_mode,
            batch_size=1,
            input_ids=torch.tensor([token]),
            req_pool_indices=batch.req_pool_indices,
            seq_lens=torch.tensor([length]),
            out_cache_loc=torch.tensor([length]),
            seq_lens_sum=length,
            positions=torch.tensor([length - 1]),
        )
        steps.append(made(forward.input_ids, forward))
    torch.testing.assert_close(torch.cat(steps), expected(reference, words)[-3:], rtol=1e-5, atol=1e-5)


def test_ngram_embedding_decodes_several_requests_prefilled_elsewhere(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One prebuilt batch of prompts shorter than the look-back, with an end of sequence in it, and of
    requests that come back with several tokens of their answers, as after a retraction."""
    monkeypatch.setattr(SamplingBatchInfo, "from_schedule_batch", lambda *_: None)
    stored, words, reference = tensors()
    made = build()
    fill(made, stored, words)
    made.ring.fill_(9)
    manager = RequestHistoryManager(enabled=False, table=None, n=made.look_back + 1, embedding=made)
    pool = ReqToTokenPool(size=7, max_context_len=64, device="cpu", enable_memory_saver=False)
    parts = [
        (SEQUENCE[:1], SEQUENCE[1:2]),
        (SEQUENCE[:2], SEQUENCE[2:3]),
        ([*SEQUENCE[:3], EOS], SEQUENCE[3:4]),
        (SEQUENCE[:4], SEQUENCE[4:8]),
        (SEQUENCE[:1], SEQUENCE[1:4]),
    ]
    requests = []
    for number, (prompt, sampled) in enumerate(parts):
        request = Req(str(number), "", array("q", prompt), SamplingParams(temperature=0, max_new_tokens=8))
        request.output_ids.extend(sampled)
        request.full_untruncated_fill_ids = array("q", prompt)
        request.extend_end = len(prompt)
        requests.append(request)
    pool.alloc(requests)
    batch = ScheduleBatch(
        reqs=requests,
        req_to_token_pool=pool,
        model_config=SimpleNamespace(vocab_size=CONFIG.vocab_size),
        device="cpu",
    )
    batch.prepare_for_prebuilt()
    manager.prepare_for_forward(batch, chunked_req=None)
    batch.forward_mode = ForwardMode.DECODE
    manager.prepare_for_forward(batch, chunked_req=None)
    sequences = [[*prompt, *sampled] for prompt, sampled in parts]
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    forward = ForwardBatch(
        forward_mode=batch.forward_mode,
        batch_size=len(parts),
        input_ids=torch.tensor([sequence[-1] for sequence in sequences]),
        req_pool_indices=batch.req_pool_indices,
        seq_lens=lengths,
        out_cache_loc=lengths,
        seq_lens_sum=int(lengths.sum()),
        positions=lengths - 1,
    )
    wanted = torch.stack([expected(reference, words, sequence)[-1] for sequence in sequences])
    torch.testing.assert_close(made(forward.input_ids, forward), wanted, rtol=1e-5, atol=1e-5)


class NothingLeavesTheDevice(TorchDispatchMode):
    """Refuses operations that make the host wait for a GPU or whose output size depends on values: a CUDA
    graph allows neither."""

    FORBIDDEN = (
        torch.ops.aten._local_scalar_dense.default,  # .item(), .tolist(), bool(), int()
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.unique_consecutive.default,
        torch.ops.aten.equal.default,
    )

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        assert operator not in self.FORBIDDEN, operator
        return operator(*arguments, **(named or {}))


@pytest.mark.parametrize("width", [1, 4])
def test_ngram_embedding_replay_never_waits_for_host(
    build: Any, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Acts like a CUDA graph: the same operations on the same memory, whose contents have changed."""
    # The only check of values, which is for tensors on a CPU.
    monkeypatch.setattr("serval_kernels.ngram_step._check_slots", lambda slots, ring: None)
    stored, words, reference = tensors()
    made = build()
    fill(made, stored, words)
    made(*extend([SEQUENCE[:4]], [[0, 0, 0]], [3]))
    if width == 1:
        static_tokens, batch = decode([0, 0], [3, 0], [0, 0])
    else:
        static_tokens, batch = verify([[0] * width] * 2, [3, 0], [0, 0])
    state = made.ring.data_ptr()
    steps = []
    # Each verify pass accepts one token.
    for place in range(4, len(SEQUENCE) - width + 1):
        static_tokens[:width] = torch.tensor(SEQUENCE[place : place + width])
        batch.positions[:width] = torch.arange(place, place + width)
        with NothingLeavesTheDevice():
            steps.append(made(static_tokens, batch)[:1])
    assert made.ring.data_ptr() == state
    torch.testing.assert_close(
        torch.cat(steps), expected(reference, words)[4 : 4 + len(steps)], rtol=1e-5, atol=1e-5
    )


def test_ngram_embedding_keeps_state_of_idle_rank(build: Any) -> None:
    stored, words, _ = tensors()
    made = build(attention_dp=True)
    fill(made, stored, words)
    made.ring.fill_(9)
    for rows in (0, 2):
        batch = SimpleNamespace(forward_mode=ForwardMode.IDLE, req_pool_indices=torch.zeros(rows).long())
        assert made(torch.zeros(rows, dtype=torch.int64), batch).shape == (rows, CONFIG.hidden_size)
    assert (made.ring == 9).all()


def test_ngram_embedding_refuses_capture_of_an_extend_batch(
    build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefill graph would replay the history of the batch it was captured with."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    _, batch = extend([[3]], [[0, 0, 0]], [1])
    on_gpu = SimpleNamespace(is_cuda=True)
    with pytest.raises(RuntimeError, match="--cuda-graph-backend-prefill=disabled"):
        build()(on_gpu, batch)


def test_ngram_embedding_refuses_unknown_mode(build: Any) -> None:
    batch = SimpleNamespace(forward_mode=ForwardMode.DRAFT_EXTEND_V2)
    with pytest.raises(NotImplementedError, match="DRAFT_EXTEND_V2"):
        build()(torch.tensor([3]), batch)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.ngram_embeddings.embedders.12.weight", torch.empty(1), "no n-gram tensor"),
        ("model.ngram_embeddings.post_projs.0.weight_scale", torch.empty(1), "no n-gram tensor"),
        (table_name(0), torch.empty(3, 8), "must have shape"),
        (
            table_name(0),
            torch.empty(CONFIG.ngram_table_rows(0), CONFIG.ngram_table_width, dtype=torch.int8),
            r"holds torch.int8, and config.json promises torch.float32",
        ),
        (
            table_name(0, part="weight_scale"),
            torch.empty(CONFIG.ngram_table_rows(0)),
            "scales eight-bit codes",
        ),
    ],
)
def test_load_weight_names_tensor_that_does_not_fit(
    build: Any, name: str, tensor: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build().load_weight(None, name, tensor)


def test_ngram_embedding_refuses_width_that_ranks_cannot_share(build: Any) -> None:
    with pytest.raises(ValueError, match="8 wide, which 3 tensor-parallel ranks cannot share"):
        build(size=3)


def test_ngram_embedding_state_is_small(build: Any) -> None:
    made = build()
    (row,) = made.ring[3:4]
    print(f"n-gram state of a request slot: {row.nbytes} bytes")
    assert row.nbytes <= 32


def test_ngram_embedding_temporaries_are_little_more_than_output(build: Any) -> None:
    """Measures the memory that a forward pass allocates beside its result, for T = 8192 and H = 3072.

    In float32: a product in bfloat16 of this size takes a quarter of an hour on a CPU without instructions
    for it, and the ratio does not depend on the dtype, since all that is allocated has the output's.
    """
    config = tiny_config(
        hidden_size=LITE.hidden_size, emb_neighbor_num=LITE.emb_neighbor_num, emb_split_num=LITE.emb_split_num
    )
    tokens = 8192
    made = build(config)
    for parameter in made.parameters():
        parameter.data.zero_()
    input_ids, batch = extend([[3] * tokens], [[0, 0, 0]], [1])
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        output = made(input_ids, batch)
    assert output.shape == (tokens, LITE.hidden_size)
    peak = held = 0
    for event in sorted(_allocations(profile), key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    print(f"output {output.nbytes:,} bytes, temporaries {peak - output.nbytes:,} bytes")
    assert output.nbytes <= peak <= (1 + 1.3) * output.nbytes


def _allocations(profile: Any) -> list[Any]:
    return [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
