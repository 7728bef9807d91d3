"""LongCat's input embedding under SGLang: word row and twelve hashed n-gram rows, averaged.

State is the last ``n - 1`` tokens of every request slot, on the device. A prefill chunk takes the tokens
before it from the request itself (``RequestHistoryManager`` sends them along), so prefix hits, chunk
boundaries, retraction and reuse of a slot need no care here. The forward pass then leaves the chunk's last
tokens in the slot, where decode steps find and advance them without the host: this is what CUDA graphs and
overlap scheduling require.

Under tensor parallelism each rank holds some columns of every table and of every projection, and some rows of
the word embedding; one all-reduce completes the sum of both.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import torch
from sglang.srt.layers.dp_attention import is_dp_attention_enabled
from sglang.srt.layers.vocab_parallel_embedding import VocabParallelEmbedding
from sglang.srt.runtime_context import get_parallel
from torch import Tensor, nn

from serval_kernels.ngram_context import decode_history, decode_windows, extend_history, extend_windows
from serval_kernels.ngram_embed import ngram_embed
from serval_kernels.ngram_ids import NgramHash, ngram_hash, ngram_ids

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

_TENSOR_NAME = re.compile(r"model\.ngram_embeddings\.(embedders|post_projs)\.(\d+)\.weight")


class NgramEmbedding(nn.Module):
    """Replaces sglang.srt.layers.n_gram_embedding.NgramEmbedding and takes its constructor's arguments.

    Raises:
        ValueError: the width of a table cannot be divided among the tensor-parallel ranks.
    """

    # Buffers; constants of the hash, and [slots, n - 1] int32 allocated by init_history.
    hash_powers: Tensor
    hash_moduli: Tensor
    hash_offsets: Tensor
    history: Tensor

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
        self.look_back = over_embedding_n - 1
        constants = ngram_hash(
            vocab_size=num_embeddings,
            base=over_embedding_m,
            max_order=over_embedding_n,
            splits=over_embedding_k,
        )
        for name, values in zip(NgramHash._fields, constants, strict=True):
            self.register_buffer(f"hash_{name}", values, persistent=False)

        # Under attention DP a rank sees its own tokens only: the sum must stay among its attention-TP peers.
        parallel = get_parallel()
        over_attn_tp = is_dp_attention_enabled()
        self.tp_group = parallel.attn_tp_group if over_attn_tp else parallel.tp_group
        self.tp_rank = parallel.attn_tp_rank if over_attn_tp else parallel.tp_rank
        self.tp_size = parallel.attn_tp_size if over_attn_tp else parallel.tp_size

        # Upstream's load_weights() files model.embed_tokens.weight under this attribute name.
        self.word_embeder = VocabParallelEmbedding(
            num_embeddings, embedding_dim, use_attn_tp_group=over_attn_tp
        )
        self.tables = len(constants.moduli)
        full_width = embedding_dim // self.tables
        if full_width % self.tp_size:
            raise ValueError(
                f"the n-gram tables are {full_width} wide, which {self.tp_size!r} tensor-parallel ranks "
                "cannot share equally: choose --tp (or attention TP) so that it divides the width."
            )
        self.width = full_width // self.tp_size
        rows = int(constants.moduli.sum())
        self.ngram_tables = nn.Parameter(torch.empty(rows, self.width), requires_grad=False)
        self.ngram_projection = nn.Parameter(
            torch.empty(self.tables * self.width, embedding_dim), requires_grad=False
        )

    @property
    def weight(self) -> nn.Parameter:
        """The word embedding, under the name that code sharing it with a draft model reads."""
        weight: nn.Parameter = self.word_embeder.weight
        return weight

    def init_history(self, slots: int, device: torch.device | str) -> None:
        """Allocate the state for request slots 0..``slots`` - 1; slot 0 takes the padding of CUDA graphs."""
        empty = torch.zeros(slots, self.look_back, dtype=torch.int32, device=device)
        self.register_buffer("history", empty, persistent=False)

    def load_weight(self, param: nn.Parameter | None, name: str, loaded: Tensor) -> None:
        """Copy this rank's columns of a table or projection; ``param`` is part of upstream's call, unused.

        Raises:
            ValueError: no such tensor, or one of another shape.
        """
        match = _TENSOR_NAME.fullmatch(name)
        if match is None or int(match[2]) >= self.tables:
            raise ValueError(f"no n-gram tensor is called {name!r} in a model with {self.tables} tables.")
        table = int(match[2])
        full_width = self.width * self.tp_size
        columns = loaded.narrow(1, self.tp_rank * self.width, self.width)
        if match[1] == "embedders":
            start, rows = int(self.hash_offsets[table]), int(self.hash_moduli[table])
            expected, target = (rows, full_width), self.ngram_tables.data[start : start + rows]
        else:
            start = table * self.width
            expected = (self.ngram_projection.shape[1], full_width)
            target = self.ngram_projection.data[start : start + self.width].t()
        if tuple(loaded.shape) != expected:
            raise ValueError(f"{name} must have shape {expected}, got {tuple(loaded.shape)}.")
        target.copy_(columns)

    def forward(self, input_ids: Tensor, forward_batch: ForwardBatch) -> Tensor:
        """``input_ids`` [T] -> [T, H]; advances the history of the batch's slots."""
        row_ids = ngram_ids(
            self._windows(input_ids, forward_batch),
            NgramHash(self.hash_powers, self.hash_moduli, self.hash_offsets),
            eos_token_id=self.eos_token_id,
        )
        # The rank's own rows, zero elsewhere: reduced together with the n-gram part.
        word_rows = self.word_embeder._embed_local_shard(input_ids)
        hidden = ngram_embed(row_ids, self.ngram_tables, self.ngram_projection, word_rows)
        if self.tp_size > 1 and hidden.shape[0] > 0:
            hidden = self.tp_group.all_reduce(hidden)
        return hidden

    def _windows(self, input_ids: Tensor, forward_batch: ForwardBatch) -> Tensor:
        """Each token with the ``n - 1`` before it [T, n]; leaves each request's last ones in its slot."""
        mode = forward_batch.forward_mode
        slots = forward_batch.req_pool_indices
        if mode.is_decode():
            windows = decode_windows(input_ids, self.history[slots])
            # Padding of a CUDA graph repeats slot 0, which no request owns.
            self.history[slots] = decode_history(windows).int()
            return windows
        if mode.is_idle():
            return input_ids.new_zeros(input_ids.shape[0], self.look_back + 1)
        if mode.is_target_verify() or not mode.is_extend():
            raise NotImplementedError(
                f"the n-gram embedding has no rule for {mode!r}: serve without speculative decoding."
            )
        # None in warm-up passes only, which go through slot 0.
        sent = forward_batch.engram_history
        before = self.history[slots] if sent is None else sent
        requests = before.shape[0]
        starts = forward_batch.extend_start_loc[:requests]
        lengths = forward_batch.extend_seq_lens[:requests]
        windows = extend_windows(input_ids, before, starts)
        self.history[slots[:requests]] = extend_history(input_ids, before, starts, lengths).int()
        return windows
