"""Providing each prefill chunk with the tokens before it, from the request's own token lists.

SGLang's manager keeps a table of all tokens of all slots and rewrites it from complete token lists for every
chunk; here a chunk costs `n - 1` tokens per request at any context length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.model_executor.model_runner_components.ngram_embedding_manager import NgramEmbeddingManager
from sglang.srt.runtime_context import get_parallel, max_speculative_num_draft_tokens
from sglang.srt.utils.common import async_h2d

from serval_kernels.ngram_context import FROM_RING, write_ring
from serval_sglang.layers.ngram_embedding import NgramEmbedding
from serval_sglang.metrics.batches import count_batch

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req, ScheduleBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCounter(NgramEmbeddingManager):  # type: ignore[misc]  # sglang is untyped
    """Replaces NgramEmbeddingManager for a model without an n-gram embedding, and counts batches.

    `enabled=False` and `table=None` switch it off everywhere else.
    """

    # True on one of the ranks that compute the same batches.
    counts_batches: bool = False

    def prepare_for_forward(
        self, batch: ScheduleBatch | None, *, chunked_req: Req | None
    ) -> ScheduleBatch | None:
        """Count a batch; the scheduler calls this for every batch before launching it."""
        if batch is not None and self.counts_batches:
            count_batch(batch.forward_mode.name.lower())
        return batch


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHistoryManager(BatchCounter):
    """The same for a model with an n-gram embedding, whose chunks it gives the tokens before them.

    The tokens travel as `engram_history`, a field that SGLang already carries from the scheduler's batch to
    the forward batch, on the right stream, for its own "engram" layers.
    """

    embedding: NgramEmbedding

    def prepare_for_forward(
        self, batch: ScheduleBatch | None, *, chunked_req: Req | None
    ) -> ScheduleBatch | None:
        """Count a batch, and attach the history to it."""
        BatchCounter.prepare_for_forward(self, batch, chunked_req=chunked_req)
        if batch is None:
            return None
        # A running batch is the former prefill batch and would otherwise keep that batch's tokens.
        batch.engram_history = None
        if batch.forward_mode.is_extend_without_speculative():
            rows = [
                history_row(req.full_untruncated_fill_ids, start, look_back=self.embedding.look_back)
                for req, start in zip(batch.reqs, batch.prefix_lens, strict=True)
            ]
            self._mark_continued(batch, rows)
            batch.engram_history = self._to_device(rows, dtype=torch.int32)
        elif batch.forward_mode.is_prebuilt():
            self._fill_slots(batch)
        return batch

    def _mark_continued(self, batch: ScheduleBatch, rows: list[list[int]]) -> None:
        """With speculative decoding, have the rows of running requests in a mixed batch read the ring: under
        overlap scheduling the host does not know yet how many drafts of the last pass were accepted."""
        if batch.forward_mode.is_mixed() and not batch.spec_algorithm.is_none():
            running = len(batch.mix_running_indices)
            rows[len(rows) - running :] = [[FROM_RING] * self.embedding.look_back] * running

    def _fill_slots(self, batch: ScheduleBatch) -> None:
        """Fill the slots of requests that another engine has prefilled, as a prefill here would have done."""
        look_back, rows, places = self.embedding.look_back, [], []
        for req in batch.reqs:
            # The last token is the one that prefill sampled and decode feeds in. Only the ends of prompts are
            # copied, because prompts are long.
            end = [*req.origin_input_ids[-look_back - 1 :], *req.output_ids[-look_back - 1 :]]
            rows.append(history_row(end, len(end) - 1, look_back=look_back))
            places.append(len(req.origin_input_ids) + len(req.output_ids) - 1 - look_back)
        slots = self._to_device([req.kv.req_pool_idx for req in batch.reqs], dtype=torch.int64)
        if slots.is_cuda:
            # A step in flight may still write to a slot whose last request has ended.
            torch.cuda.synchronize(slots.device)
        write_ring(
            self.embedding.ring,
            slots,
            self._to_device(places, dtype=torch.int64),
            self._to_device(rows, dtype=torch.int32),
        )

    def _to_device(self, values: list[Any], *, dtype: torch.dtype) -> torch.Tensor:
        copied: torch.Tensor = async_h2d(values, dtype=dtype, device=self.embedding.ring.device)
        return copied


def history_row(tokens: Sequence[int], place: int, *, look_back: int) -> list[int]:
    """Return the `look_back` tokens before `place`, oldest first, 0 before the sequence."""
    before = list(tokens[max(0, place - look_back) : place])
    return [0] * (look_back - len(before)) + before


def manager_for_model(original: Any, cls: type, /, **arguments: Any) -> NgramEmbeddingManager:
    """Wrap NgramEmbeddingManager.from_model: return our manager for a LongCat model, SGLang's for others."""
    model = arguments["model"]
    embeddings = [m for m in model.modules() if isinstance(m, NgramEmbedding)]
    if not embeddings:
        # Only SGLang's model of the family has this attribute; its draft model has not.
        if getattr(model, "use_ngram_embedding", None) is not False:
            return original(cls, **arguments)
        return BatchCounter(enabled=False, table=None, n=1, counts_batches=get_parallel().attn_tp_rank == 0)
    (embedding,) = embeddings
    # One row per request slot; row 0 is the padding row of the pool.
    embedding.allocate_ring(
        arguments["req_to_token_pool"].req_to_token.shape[0],
        arguments["device"],
        width=max_speculative_num_draft_tokens() or 1,
    )
    return RequestHistoryManager(
        enabled=False,
        table=None,
        n=embedding.look_back + 1,
        embedding=embedding,
        counts_batches=get_parallel().attn_tp_rank == 0,
    )
