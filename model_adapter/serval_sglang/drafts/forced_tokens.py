"""Drafts from the grammar: where it allows one continuation, that is what the layer should have drafted.

Verification decides as ever, so such a draft changes no answer. The tokens of a text that is forced are those
that the tokenizer splits it into, which is how the model writes it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from serval_sglang.settings import model_settings

# A batch whose grammars wait for the last pass is not overlapped with it, so enough requests must gain.
_LEAST_SHARE = 0.5
_WORD_BITS = 32


def run_eagle_verify(original: Any, batch: Any, **named: Any) -> Any:
    """Wrap run_eagle_verify: put tokens that a grammar forces in the place of drafts."""
    barrier = named.get("grammar_barrier")
    if _takes_forced_tokens(batch, overlaps=barrier is not None):
        if barrier is not None:
            barrier()
        verify_input = batch.spec_info
        verify_input.draft_token = with_forced_tokens(
            verify_input.draft_token.view(len(batch.reqs), -1),
            [request.grammar for request in batch.reqs],
            named["target_worker"].tokenizer,
            batch.sampling_info.vocab_size,
        ).flatten()
    return original(batch, **named)


def _takes_forced_tokens(batch: Any, *, overlaps: bool) -> bool:
    # The settings last: reading them is work in each pass, and most batches have no grammar.
    return (
        batch.has_grammar
        and not batch.forward_mode.is_idle()
        and batch.spec_info.draft_token_num > 1
        and (not overlaps or _share_with_grammar(batch.reqs) >= _LEAST_SHARE)
        and model_settings().grammar_drafts
    )


def _share_with_grammar(requests: Sequence[Any]) -> float:
    return sum(request.grammar is not None for request in requests) / len(requests)


def with_forced_tokens(
    chains: Tensor, grammars: Sequence[Any | None], tokenizer: Any, vocab_size: int
) -> Tensor:
    """Return `chains` [B, W] with forced tokens for drafts; column 0 holds the last accepted tokens, which
    the grammars, in SGLang's form, have taken in."""
    before = chains.tolist()
    after = [
        [chain[0], *forced_chain(grammar, chain[1:], tokenizer, vocab_size)] if grammar is not None else chain
        for chain, grammar in zip(before, grammars, strict=True)
    ]
    return chains if after == before else torch.tensor(after, dtype=chains.dtype).to(chains.device)


def forced_chain(grammar: Any, drafts: Sequence[int], tokenizer: Any, vocab_size: int) -> list[int]:
    """Return `drafts` with the grammar's tokens where it forces them. The grammar is as before afterwards."""
    chain: list[int] = []
    mask = grammar.allocate_vocab_mask(vocab_size, 1, "cpu")
    while len(chain) < len(drafts) and mask is not None and not grammar.is_terminated():
        mask.fill_(-1)  # a grammar that allows everything leaves it as it is
        grammar.fill_vocab_mask(mask, 0)
        token = _next_token(grammar, drafts[len(chain)], mask[0], tokenizer)
        if token is None:
            break
        grammar.accept_token(token)
        chain.append(token)
    if chain:
        grammar.rollback(len(chain))
    return [*chain, *drafts[len(chain) :]]


def _next_token(grammar: Any, draft: int, mask: Tensor, tokenizer: Any) -> int | None:
    """Return the token to draft, or None if the grammar forces none and forbids the draft."""
    only = _only_token(mask)
    if only is not None:
        return only
    jump = grammar.try_jump_forward(tokenizer)
    text = grammar.jump_forward_str_state(jump)[0] if jump else ""
    tokens = tokenizer.encode(text, add_special_tokens=False) if text else []
    is_possible = _is_allowed(mask, draft)
    # The last token of a forced text may be a longer one, which goes on behind it.
    if tokens and _is_allowed(mask, tokens[0]) and (len(tokens) > 1 or not is_possible):
        return int(tokens[0])
    return draft if is_possible else None


def _only_token(mask: Tensor) -> int | None:
    """Return the token whose bit alone is set in `mask` [ceil(V / 32)] int32, or None."""
    words = mask.nonzero()
    if len(words) != 1:
        return None
    place = int(words)
    word = int(mask[place]) % (1 << _WORD_BITS)
    return place * _WORD_BITS + word.bit_length() - 1 if word.bit_count() == 1 else None


def _is_allowed(mask: Tensor, token: int) -> bool:
    return token < len(mask) * _WORD_BITS and bool(int(mask[token // _WORD_BITS]) >> token % _WORD_BITS & 1)


AROUND = {"sglang.srt.speculative.eagle_worker_common.run_eagle_verify": run_eagle_verify}
