"""LongCat-Flash-Lite as a Transformers model: LongCat-Flash with the n-gram embedding in front.

Only the input differs from `transformers.LongcatFlashForCausalLM`, so attention, experts, `generate()` and
saving are Transformers' own.
"""

import inspect
from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, LongcatFlashForCausalLM, LongcatFlashModel
from transformers.models.longcat_flash.modeling_longcat_flash import (
    LongcatFlashPreTrainedModel,
    LongcatFlashTopkRouter,
)

from serval_sglang.checkpoint.layout import ALIASES, MTP_PREFIX
from serval_sglang.transformers.configuration import LongcatFlashNgramConfig
from serval_sglang.transformers.ngram import NgramEmbeddings, earlier_tokens, windows

# Tensors that this model does not use: the MTP layer, and what re-saved copies hold twice.
_UNUSED = [MTP_PREFIX.replace(".", r"\."), *(name.replace(".", r"\.") for name in ALIASES)]
# Name of the argument for the cache, which Transformers has renamed.
_CACHE: Final = (
    "cache" if "cache" in inspect.signature(LongcatFlashModel.forward).parameters else "past_key_values"
)


class Router(LongcatFlashTopkRouter):  # type: ignore[misc]  # transformers is untyped
    """Transformers' router, which reads the weight of its classifier and does not call it.

    accelerate brings an offloaded weight only when its module is called: without this all logits are NaN.
    """

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map [.., H] to logits [tokens, experts], and weights and numbers of the chosen [tokens, top k]."""
        logits = self.classifier(hidden_states.reshape(-1, self.hidden_dim).float())
        scores = logits.softmax(dim=-1)
        chosen = self.get_topk_indices(scores)
        return logits, scores.gather(1, chosen) * self.routed_scaling_factor, chosen


class LongcatFlashNgramModel(LongcatFlashModel):  # type: ignore[misc]  # transformers is untyped
    """The decoder without its head."""

    config_class = LongcatFlashNgramConfig
    # Rounding the router moves tokens between experts: it is float32 in checkpoints of any type.
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["mlp.router"]
    _keys_to_ignore_on_load_unexpected = _UNUSED

    def __init__(self, config: LongcatFlashNgramConfig) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.mlp.router = Router(config)
            experts = layer.mlp.experts
            # Transformers has rows for identity experts too, which no checkpoint has and nothing reads.
            experts.gate_up_proj = nn.Parameter(experts.gate_up_proj[: config.n_routed_experts].detach())
        self.ngram_embeddings = NgramEmbeddings(config.checked())
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """See `LongcatFlashModel.forward`. `cache` and `past_key_values` are the same.

        The look-back of a token ends at its sequence's first: padding is known from an `attention_mask`
        [B, T], or from `position_ids`, which also part packed sequences. `inputs_embeds` must be whole, with
        the n-grams' rows added, and cannot be cached, because the tokens after them look back at tokens.

        Raises:
            ValueError: neither or both of `input_ids` and `inputs_embeds` are given, or the latter with a
                cache.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give one of input_ids and inputs_embeds.")
        cache = past_key_values if cache is None else cache
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if input_ids is None:
            if use_cache or cache is not None:
                raise ValueError(
                    "inputs_embeds cannot be cached: later tokens look back at tokens, which these do not "
                    "tell. Give input_ids, or use_cache=False."
                )
        else:
            if use_cache and cache is None:
                cache = DynamicCache(config=self.config)
            reach = _reach(attention_mask, position_ids, count=input_ids.shape[1])
            inputs_embeds = self._embed(input_ids, reach, cache)
        return super().forward(
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **{_CACHE: cache},
            **kwargs,
        )

    def _embed(self, input_ids: Tensor, reach: Tensor | None, cache: Cache | None) -> Tensor:
        width = self.config.emb_neighbor_num
        if cache is None:
            window = windows(input_ids, 0, input_ids.shape[1], width=width)
        else:
            # Two attentions a layer have a place each in the cache; the tokens have the one after.
            window = earlier_tokens(cache, input_ids, layer=2 * self.config.num_layers, width=width)
        embedded: Tensor = self.ngram_embeddings(window, reach, self.embed_tokens(input_ids))
        return embedded


class LongcatFlashNgramForCausalLM(LongcatFlashForCausalLM):  # type: ignore[misc]  # transformers is untyped
    """The whole model. Its name is what config.json has as its architecture."""

    config_class = LongcatFlashNgramConfig
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["mlp.router"]
    _keys_to_ignore_on_load_unexpected = _UNUSED

    def __init__(self, config: LongcatFlashNgramConfig) -> None:
        # Not that of the direct base, which would make a decoder without n-grams first.
        LongcatFlashPreTrainedModel.__init__(self, config)
        self.model = LongcatFlashNgramModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """Return the word embedding. Raises `ValueError` for another size than it has.

        The size of the vocabulary is in the hash of the n-grams, so another one would mean other rows for
        all tokens. The vocabulary has some thousand entries that are free for new tokens.
        """
        if new_num_tokens not in (None, self.config.vocab_size):
            raise ValueError(
                f"The vocabulary must stay at {self.config.vocab_size} entries, because the n-gram embedding "
                "is hashed with this number. Use reserved entries of the tokenizer for new tokens."
            )
        return self.get_input_embeddings()


def _reach(attention_mask: Tensor | None, position_ids: Tensor | None, *, count: int) -> Tensor | None:
    """Return how many tokens of its own sequence are before each of the last `count`: int64 [B, count].

    None if that is not told: then the cache begins with the sequence.
    """
    told = []
    if position_ids is not None:
        told.append(position_ids)
    if attention_mask is not None and attention_mask.ndim == 2:
        told.append((attention_mask.long().cumsum(-1) - 1)[:, -count:])
    if len(told) == 2:
        return torch.minimum(*told)
    return told[0] if told else None
