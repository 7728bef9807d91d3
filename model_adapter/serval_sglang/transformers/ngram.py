"""The n-gram embedding of Transformers' model: rows of the tables for the latest tokens, with a cache.

Formula and source are in `serval_sglang.reference.ngram`. The tokens before those of a call are kept in the
cache of keys and values, as a layer of its own after those of the attentions. So whatever reorders, repeats
or crops the cache (beam search, assisted generation) does the same to them, with any class of cache.
"""

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import DynamicLayer, StaticLayer

from serval_sglang.config import LongcatConfig
from serval_sglang.reference.ngram import window_ids


def earlier_tokens(cache: Cache, tokens: Tensor, *, layer: int, width: int) -> Tensor:
    """Append `tokens` to the cache, and return the window of each: int64 [B, T, width], the token first.

    `tokens`: int64 [B, T]. `layer`: index of the cache's layer for tokens. Places before the first token
    hold 0.
    """
    before = _length_of(cache, layer)
    if cache.layer_class_to_replicate is None and len(cache.layers) == layer:
        fixed = [each for each in cache.layers if isinstance(each, StaticLayer)]
        cache.layers.append(StaticLayer(fixed[0].max_cache_len) if fixed else DynamicLayer())
    keys = tokens[:, None, :, None]
    # Values of no width: the layer's keys hold all there is.
    kept, _ = cache.update(keys, keys[..., :0], layer)
    return windows(kept[:, 0, :, 0], before, tokens.shape[1], width=width)


def _length_of(cache: Cache, layer: int) -> int | Tensor:
    length: int | Tensor = cache.layers[layer].get_seq_length() if len(cache.layers) > layer else 0
    # A static layer returns its own counter, which the update changes.
    return length.clone() if isinstance(length, Tensor) else length


def windows(tokens: Tensor, before: int | Tensor, count: int, *, width: int) -> Tensor:
    """Return the tokens at positions p, p-1, .. p-width+1 for the `count` positions p from `before` on.

    `tokens`: int64 [B, at least before + count]; result: int64 [B, count, width], 0 before the first.
    """
    position = torch.arange(count, device=tokens.device)[:, None] + before
    position = position - torch.arange(width, device=tokens.device)  # [count, width]
    return tokens[:, position.clamp(min=0)] * (position >= 0)


class NgramEmbeddings(nn.Module):
    """The tables T_i (`embedders`) and their projections P_i (`post_projs`), under Meituan's names."""

    def __init__(self, config: LongcatConfig) -> None:
        super().__init__()
        self.config = config
        tables = range(config.ngram_table_count)
        self.embedders = nn.ModuleList(
            nn.Embedding(config.ngram_table_rows(table), config.ngram_table_width) for table in tables
        )
        self.post_projs = nn.ModuleList(
            nn.Linear(config.ngram_table_width, config.hidden_size, bias=False) for _ in tables
        )

    def forward(self, window: Tensor, reach: Tensor | None, word_rows: Tensor) -> Tensor:
        """Map windows int64 [B, T, width] and the words' rows [B, T, H] to the model's input [B, T, H].

        `reach`: int64 [B, T], number of earlier tokens of the same sequence; None if all are.
        """
        ids = window_ids(self._without_other_sequences(window, reach), self.config)
        total = word_rows
        for table, project, of_table in zip(self.embedders, self.post_projs, ids.unbind(-1), strict=True):
            # Tables may be on another device than the rest: rows travel, tables do not.
            rows = project(_on_device_of(project, table(_on_device_of(table, of_table))))
            total = total + rows.to(total)
        return total / (1 + self.config.ngram_table_count)

    def _without_other_sequences(self, window: Tensor, reach: Tensor | None) -> Tensor:
        """Put 0 for tokens beyond an end-of-sequence token, which is excluded too, or beyond `reach`."""
        earlier = window[..., 1:]
        inside = (earlier != self.config.eos_token_id).cumprod(-1)
        if reach is not None:
            distance = torch.arange(1, window.shape[-1], device=window.device)
            inside = inside * (distance <= reach[..., None].to(window.device))
        return torch.cat((window[..., :1], earlier * inside), dim=-1)


def _on_device_of(module: nn.Module, tensor: Tensor) -> Tensor:
    """Move `tensor` to where the module's weight is. What accelerate has offloaded moves its own input."""
    weight = module.get_parameter("weight")
    return tensor if weight.is_meta else tensor.to(weight.device)
