"""Initial weights from which a small model learns to copy within minutes instead of hours.

A call repeats names from the user's text, so nearly everything here depends on induction heads
(arXiv:2209.11895): a head that finds the earlier place where the last two tokens occurred and reads the token
that followed. Gradient descent finds them late, because each part is useless without the others. So the first
layer starts with a rough version of the circuit:

* the first attention copies each token's two predecessors into channels that the embedding leaves free;
* the second attention compares the current and the last token with those, and writes the word that it finds;
* the head starts as a reader of that word.

Everything else starts as usual, and training may change any of it.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from serval_sglang.config import LongcatConfig
from serval_sglang.reference import ReferenceModel
from serval_sglang.reference.attention import LatentAttention
from serval_sglang.reference.model import DecoderLayer
from serval_sglang.reference.rope import inverse_frequencies

_CONSTANT = 3.0  # value of the constant channel, where words have a standard deviation of 1
_ROTARY_PAIRS = 3  # the fastest ones distinguish neighbours
_ROTARY_LOGIT = 10.0  # for the right distance, in each of those pairs
_MATCH_LOGIT = 20.0  # if both tokens match
_FOUND_LOGIT = 4.0  # for the word that was found


@dataclass(frozen=True)
class _Channels:
    """Initial use of the hidden dimension's channels. `width` is that of an attention value."""

    constant: int
    word: slice
    previous: slice
    before_previous: slice
    found: slice
    width: int

    @classmethod
    def of(cls, config: LongcatConfig) -> Self:
        width, end = config.v_head_dim, config.hidden_size
        previous, before_previous, found = (slice(end - n * width, end - (n - 1) * width) for n in (3, 2, 1))
        return cls(0, slice(1, previous.start), previous, before_previous, found, width)


def initial_model(config: LongcatConfig, *, seed: int) -> ReferenceModel:
    """Return a model that can only copy: other blocks add nothing yet.

    This needs at least two heads, q_lora_rank = 2 and kv_lora_rank = 3 times v_head_dim, and a hidden size
    above the latter.
    """
    torch.manual_seed(seed)
    model = ReferenceModel(config)
    channels = _Channels.of(config)
    words = channels.word.stop - channels.word.start
    with torch.no_grad():
        _write_embedding(model, channels)
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
        sketch, copied = (torch.randn(channels.width, words) / math.sqrt(words) for _ in range(2))
        first_layer = model.model.layers[0]
        assert isinstance(first_layer, DecoderLayer)
        look_back, find = first_layer.self_attn
        assert isinstance(look_back, LatentAttention)
        assert isinstance(find, LatentAttention)
        _write_look_back(look_back, channels, sketch)
        _write_find(find, channels, sketch, copied)
        rows = model.model.embed_tokens.weight[:, channels.word] / (1 + config.ngram_table_count)
        model.lm_head.weight.mul_(0.02)
        model.lm_head.weight[:, channels.found] = rows @ copied.T * (_FOUND_LOGIT / channels.width)
    return model


def _write_embedding(model: ReferenceModel, channels: _Channels) -> None:
    # The embedding is a mean of this many terms, of which only the word's is large at first.
    terms = 1 + model.config.ngram_table_count
    rows = model.model.embed_tokens.weight
    nn.init.zeros_(rows)
    rows[:, channels.constant] = _CONSTANT * terms
    rows[:, channels.word] = torch.randn_like(rows[:, channels.word]) * terms


def _write_look_back(attention: LatentAttention, channels: _Channels, sketch: Tensor) -> None:
    """Make head 0 attend one token back and head 1 two; both copy a sketch of the word found there.

    With a constant key (a, 0) in a rotary pair of frequency f, the query b (cos nf, -sin nf) scores
    a b cos((t - s - n) f) against the key at s, greatest where s = t - n.
    """
    config, width = attention.config, channels.width
    scale = 1 / math.sqrt((channels.word.stop + _CONSTANT**2) / config.hidden_size)  # the first norm
    keys, queries, queries_up = (
        part.weight for part in (attention.kv_a_proj_with_mqa, attention.q_a_proj, attention.q_b_proj)
    )
    length = math.sqrt(_ROTARY_LOGIT / config.softmax_scale)
    for pair in range(_ROTARY_PAIRS):
        row = config.kv_lora_rank + 2 * pair
        keys[row : row + 2] = 0
        keys[row, channels.constant] = length / (_CONSTANT * scale)
    # One latent is so large that the norm of the latents makes it constant: the square root of their number.
    queries[0] = 0
    queries[0, channels.constant] = 30.0
    gain = length / (math.sqrt(config.q_lora_rank) * config.q_lora_scale)
    frequencies = inverse_frequencies(config, dtype=torch.float32)[:_ROTARY_PAIRS].tolist()
    for head, distance in enumerate((1, 2)):
        start = head * config.qk_head_dim
        queries_up[start : start + config.qk_head_dim] = 0
        for pair, frequency in enumerate(frequencies):
            row = start + config.qk_nope_head_dim + 2 * pair
            queries_up[row, 0] = gain * math.cos(distance * frequency)
            queries_up[row + 1, 0] = -gain * math.sin(distance * frequency)

    keys[:width] = 0
    keys[:width, channels.word] = sketch
    for head, target in enumerate((channels.previous, channels.before_previous)):
        _write_value(attention, head, latents=slice(0, width), target=target, gain=1.0)


def _write_find(attention: LatentAttention, channels: _Channels, sketch: Tensor, copied: Tensor) -> None:
    """Make heads 0 and 1 compare (current, last) with (one back, two back) and copy the word found there."""
    config, width = attention.config, channels.width
    queries, keys = attention.q_a_proj.weight, attention.kv_a_proj_with_mqa.weight
    identity = torch.eye(width)
    queries.zero_()
    queries[:width, channels.word] = sketch
    queries[width:, channels.previous] = identity
    keys[: 3 * width] = 0
    keys[:width, channels.previous] = identity
    keys[width : 2 * width, channels.before_previous] = identity
    keys[2 * width : 3 * width, channels.word] = copied
    nope = config.qk_nope_head_dim
    # Logit of two matching vectors of `nope` entries with unit variance; the model scales both latents.
    expected = 2 * nope * config.softmax_scale * config.q_lora_scale * config.kv_lora_scale
    gain = math.sqrt(_MATCH_LOGIT / expected)
    for head in range(2):
        comparison = torch.randn(nope, 2 * width) * (gain / math.sqrt(width))
        query_rows, key_rows = head * config.qk_head_dim, head * (nope + config.v_head_dim)
        attention.q_b_proj.weight[query_rows : query_rows + config.qk_head_dim] = 0
        attention.q_b_proj.weight[query_rows : query_rows + nope] = comparison
        attention.kv_b_proj.weight[key_rows : key_rows + nope] = 0
        attention.kv_b_proj.weight[key_rows : key_rows + nope, : 2 * width] = comparison
        _write_value(attention, head, latents=slice(2 * width, 3 * width), target=channels.found, gain=0.5)


def _write_value(
    attention: LatentAttention, head: int, *, latents: slice, target: slice, gain: float
) -> None:
    """Make `head` copy `latents`, times `gain`, into the channels `target`."""
    config = attention.config
    identity = torch.eye(config.v_head_dim)
    start = head * (config.qk_nope_head_dim + config.v_head_dim) + config.qk_nope_head_dim
    attention.kv_b_proj.weight[start : start + config.v_head_dim] = 0
    attention.kv_b_proj.weight[start : start + config.v_head_dim, latents] = identity / config.kv_lora_scale
    columns = slice(head * config.v_head_dim, (head + 1) * config.v_head_dim)
    attention.o_proj.weight[target, columns] = gain * identity
