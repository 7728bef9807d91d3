"""LongCat's input embedding under SGLang: the mean of the word row and twelve hashed n-gram rows.

The state is a ring of the last tokens of every request slot, on the device, in which a token's column is its
position modulo the ring's size (`serval_kernels.ngram_step`). A prefill chunk gets the tokens before it from
the request itself (`RequestHistoryManager` attaches them), so prefix hits, chunk boundaries, retraction and
reuse of a slot need no special care. The forward pass then writes the chunk's last tokens to the slot, where
decode and verify passes read and extend them without the host, as CUDA graphs and overlap scheduling require.
What a verify pass writes of drafts that are rejected lies at positions where the next pass begins, which
never looks there: nothing is rolled back, as in the KV cache.

Sharding. Each rank holds some columns of every table and of every projection, and some rows of the word
embedding. Its word rows and its part of the product are partial sums of the same kind, so one all-reduce of
[T, H] completes both. A rank of LongCat-Flash-Lite in bfloat16 has

    ==  ============  ============  ===========  ====================  =====================
    TP  tables        projections   word rows    row reads per token   operations per token
    ==  ============  ============  ===========  ====================  =====================
     1  62.8 GB       18.9 MB       805 MB       12 x 512 B            18.9 MFLOP
     2  31.4 GB        9.4 MB       403 MB       12 x 256 B             9.4 MFLOP
     4  15.7 GB        4.7 MB       201 MB       12 x 128 B             4.7 MFLOP
     8   7.9 GB        2.4 MB       101 MB       12 x  64 B             2.4 MFLOP
    ==  ============  ============  ===========  ====================  =====================

The alternatives need as many bytes in total. But if the rows of tables were split, any rank could hold a
token's row, so each would have to multiply all 3,072 inputs (18.9 MFLOP at every TP) or exchange rows first
(a second collective). If whole tables were split, 12 could not be divided by 8: some ranks would hold two
(10.5 GB, 3.1 MFLOP), and the others would wait for them. Columns divide evenly for every TP that divides 256,
and pieces of 64 bytes are still whole sectors of GPU memory.

Loading copies a rank's columns directly from the mapped checkpoint and needs no memory beyond what the rank
keeps (test_engine_verification_can_fail.py measures it). It reads every page of the tables, because a page
holds pieces of one row; ranks of a host share the pages in the file cache, which the kernel reclaims when it
needs memory.

Under attention DP (`--enable-dp-attention`) ranks hold different tokens. The above then applies to ranks that
share the same tokens, SGLang's attention-TP group: sharding and the sum stay within it, as they do in
upstream's VocabParallelEmbedding with `use_attn_tp_group`, because a sum over all ranks would add rows of
different tokens. A rank of TP 8 with attention DP 4 thus holds half of every table, as at TP 2, so the tables
use up the memory that DP saves in the cache; with as many DP as TP ranks each holds all tables (62.8 GB, or
`--ngram-tables host`). The state of a slot lives on the rank where its request is decoded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from sglang.srt.layers.dp_attention import is_dp_attention_enabled
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from sglang.srt.runtime_context import get_parallel
from torch import Tensor, nn

from serval_kernels.ngram_context import ring_columns
from serval_kernels.ngram_embed import ngram_embed
from serval_kernels.ngram_ids import NgramHash, ngram_hash
from serval_kernels.ngram_step import decode_step, extend_step
from serval_sglang.layers.ngram_tables import NgramTables, TableStorage
from serval_sglang.metrics.ngram_tables import report_tables

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

_TENSOR_NAME = re.compile(r"model\.ngram_embeddings\.(\w+)\.(\d+)\.(\w+)")
_KINDS = {
    ("embedders", "weight"): "values",
    ("embedders", "weight_scale"): "scales",
    ("post_projs", "weight"): "projection",
}


class NgramEmbedding(nn.Module):
    """Replaces sglang.srt.layers.n_gram_embedding.NgramEmbedding and accepts its constructor's arguments.

    Call `allocate_tables` and `allocate_ring` before use. Raises `ValueError` if the width of a table cannot
    be divided among the tensor-parallel ranks.
    """

    # Buffers: constants of the hash, and `ring` int32 [slots, R], which allocate_ring allocates.
    hash_powers: Tensor
    hash_moduli: Tensor
    hash_offsets: Tensor
    ring: Tensor
    ngram_tables: NgramTables

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        over_embedding_m: int,
        over_embedding_k: int,
        over_embedding_n: int,
        eos_token_id: int,
    ) -> None:
        super().__init__()
        self.eos_token_id = eos_token_id
        # Factor on the word's row; None is that of a mean. The model sets it.
        self.word_scale: float | None = None
        self.look_back = over_embedding_n - 1
        # On the CPU first, because loading reads them there, without a wait for the device.
        with torch.device("cpu"):
            constants = ngram_hash(
                vocab_size=num_embeddings,
                base=over_embedding_m,
                max_order=over_embedding_n,
                splits=over_embedding_k,
            )
        self.first_rows: list[int] = constants.offsets.tolist()
        self.row_counts: list[int] = constants.moduli.tolist()
        device = torch.get_default_device()
        for name, values in zip(NgramHash._fields, constants, strict=True):
            self.register_buffer(f"hash_{name}", values.to(device), persistent=False)

        parallel = get_parallel()
        over_attn_tp = is_dp_attention_enabled()
        self.tp_group = parallel.attn_tp_group if over_attn_tp else parallel.tp_group
        self.tp_rank = parallel.attn_tp_rank if over_attn_tp else parallel.tp_rank
        self.tp_size = parallel.attn_tp_size if over_attn_tp else parallel.tp_size

        # Upstream's load_weights() loads model.embed_tokens.weight into this attribute.
        self.word_embeder = VocabParallelEmbedding(
            num_embeddings, embedding_dim, use_attn_tp_group=over_attn_tp
        )
        self.tables = len(self.row_counts)
        full_width = embedding_dim // self.tables
        if full_width % self.tp_size:
            raise ValueError(
                f"the n-gram tables are {full_width} wide, which {self.tp_size!r} tensor-parallel ranks "
                "cannot share equally: choose --tp (or attention TP) so that it divides the width."
            )
        self.width = full_width // self.tp_size
        self.rows = sum(self.row_counts)
        self.ngram_projection = nn.Parameter(
            torch.empty(self.tables * self.width, embedding_dim), requires_grad=False
        )

    @property
    def weight(self) -> nn.Parameter:
        """The word embedding, under the name expected by code that shares it with a draft model."""
        weight: nn.Parameter = self.word_embeder.weight
        return weight

    def allocate_tables(self, storage: TableStorage) -> None:
        """Allocate this rank's columns of the tables. Not part of the constructor, because upstream calls
        that without knowing how the tables are stored."""
        self.ngram_tables = NgramTables(self.rows, self.width, storage, device=self.ngram_projection.device)
        report_tables(
            self.ngram_tables.values,
            self.ngram_tables.scales,
            rows_per_token=self.tables,
            place=storage.place,
        )

    def allocate_ring(self, slots: int, device: torch.device | str, *, width: int) -> None:
        """Allocate the state for request slots 0..`slots` - 1 and passes of up to `width` tokens a request,
        which is 1 without speculative decoding. Slot 0 is for the padding of CUDA graphs."""
        columns = ring_columns(order=self.look_back + 1, width=width)
        empty = torch.zeros(slots, columns, dtype=torch.int32, device=device)
        self.register_buffer("ring", empty, persistent=False)

    def load_weight(self, param: nn.Parameter | None, name: str, loaded: Tensor) -> None:
        """Copy this rank's part of a table, its scales or a projection; upstream also passes `param`, which
        is unused.

        Raises `ValueError` if the tensor is unknown or has another shape, or if a table is stored in another
        format than allocated.
        """
        match = _TENSOR_NAME.fullmatch(name)
        kind = _KINDS.get((match[1], match[3])) if match else None
        if match is None or kind is None or int(match[2]) >= self.tables:
            raise ValueError(f"no n-gram tensor is called {name!r} in a model with {self.tables} tables.")
        table = int(match[2])
        start, rows = self.first_rows[table], self.row_counts[table]
        full_width, hidden = self.width * self.tp_size, self.ngram_projection.shape[1]
        shapes = {"projection": (hidden, full_width), "values": (rows, full_width), "scales": (rows,)}
        if tuple(loaded.shape) != shapes[kind]:
            raise ValueError(f"{name} must have shape {shapes[kind]}, got {tuple(loaded.shape)}.")
        if kind == "scales":
            self.ngram_tables.load_scales(name, start, loaded)
            return
        columns = loaded.narrow(1, self.tp_rank * self.width, self.width)
        if kind == "values":
            self.ngram_tables.load_values(name, start, columns)
        else:
            first = table * self.width
            self.ngram_projection.data[first : first + self.width].t().copy_(columns)

    def forward(self, input_ids: Tensor, forward_batch: ForwardBatch) -> Tensor:
        """Map `input_ids` [T] to [T, H], and store the tokens in the ring."""
        row_ids = self._row_ids(input_ids, forward_batch)
        # The rank's own rows, zero elsewhere. They are reduced together with the n-gram part, which is added
        # in place.
        word_rows = self.word_embeder._embed_local_shard(input_ids)
        hidden = ngram_embed(
            row_ids,
            self.ngram_tables.stored(),
            self.ngram_projection,
            word_rows,
            word_scale=self.word_scale,
            in_place=True,
        )
        if self.tp_size > 1 and hidden.shape[0] > 0:
            hidden = self.tp_group.all_reduce(hidden)
        return hidden

    def _row_ids(self, input_ids: Tensor, forward_batch: ForwardBatch) -> Tensor:
        """Return rows of the tables for each token [T, tables], and update the ring."""
        mode = forward_batch.forward_mode
        if mode.is_decode():
            return self._pass_row_ids(input_ids, forward_batch, width=1)
        if mode.is_target_verify():
            return self._pass_row_ids(input_ids, forward_batch, width=forward_batch.spec_info.draft_token_num)
        if mode.is_idle():
            # An idle rank of attention DP computes rows only to stay in step with the others.
            return input_ids.new_zeros(input_ids.shape[0], self.tables)
        if not mode.is_extend():
            raise NotImplementedError(f"the n-gram embedding has no rule for {mode!r}.")
        if input_ids.is_cuda and torch.cuda.is_current_stream_capturing():
            # A replay would use the history of the captured batch instead of that of its own requests.
            raise RuntimeError(
                "the n-gram embedding cannot be captured in a prefill CUDA graph: serve with "
                "--cuda-graph-backend-prefill=disabled."
            )
        # None in warm-up passes, which use slot 0, and if attention DP relabels a decode batch as an extend
        # batch of one token per request, whose history is in the ring.
        before = forward_batch.engram_history
        requests = len(forward_batch.req_pool_indices) if before is None else len(before)
        return extend_step(
            input_ids,
            self.ring,
            slots=forward_batch.req_pool_indices[:requests],
            positions=forward_batch.positions,
            starts=forward_batch.extend_start_loc[:requests],
            lengths=forward_batch.extend_seq_lens[:requests],
            ngram=self._hash(),
            eos_token_id=self.eos_token_id,
            before=before,
        )

    def _pass_row_ids(self, input_ids: Tensor, forward_batch: ForwardBatch, *, width: int) -> Tensor:
        """Return the row ids of a decode or verify pass with `width` tokens of each request."""
        # Padding of a CUDA graph repeats slot 0, which no request owns.
        slots = forward_batch.req_pool_indices
        tokens = len(slots) * width
        row_ids = decode_step(
            input_ids[:tokens],
            self.ring,
            slots=slots,
            positions=forward_batch.positions[:tokens],
            ngram=self._hash(),
            eos_token_id=self.eos_token_id,
            width=width,
        )
        # Attention DP may pad the tokens to a number that `width` does not divide.
        padding = input_ids.shape[0] - tokens
        return F.pad(row_ids, (0, 0, 0, padding)) if padding else row_ids

    def _hash(self) -> NgramHash:
        return NgramHash(self.hash_powers, self.hash_moduli, self.hash_offsets)
