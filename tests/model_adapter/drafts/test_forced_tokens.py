"""Drafts from the grammar, with real grammars and the demo model's tokenizer."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from serval_sglang.demo import checkpoint_directory
from serval_sglang.drafts import forced_tokens
from serval_sglang.drafts.forced_tokens import forced_chain, with_forced_tokens

BEGIN = "<call>get_time\n"
TAG = {
    "type": "structural_tag",
    "format": {
        "type": "tag",
        "begin": BEGIN,
        "content": {"type": "regex", "pattern": "[a-m]{1,8}"},
        "end": "</call>",
    },
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    transformers = pytest.importorskip("transformers", reason="needs SGLang's own requirements")
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(checkpoint_directory() / "tokenizer.json"))


@pytest.fixture(scope="module")
def backend(tokenizer: Any) -> Any:
    module = pytest.importorskip("sglang.srt.constrained.xgrammar_backend", reason="needs SGLang")
    return module.XGrammarGrammarBackend(tokenizer, vocab_size=len(tokenizer), model_eos_token_ids=[0])


@pytest.fixture
def grammar(backend: Any) -> Any:
    return backend.dispatch_structural_tag(json.dumps(TAG))


def encoded(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def allowed(grammar: Any, size: int) -> list[int]:
    mask = grammar.allocate_vocab_mask(size, 1, "cpu")
    grammar.fill_vocab_mask(mask, 0)
    return [token for token in range(size) if int(mask[0, token // 32]) >> token % 32 & 1]


def test_forced_chain_drafts_the_tokenizers_own_tokens(grammar: Any, tokenizer: Any) -> None:
    begin = encoded(tokenizer, BEGIN)
    wrong = [5] * 3
    assert forced_chain(grammar, wrong, tokenizer, len(tokenizer)) == begin[:3]
    # All tokens of the forced text but the last, which could be a longer one.
    for token in begin[:3]:
        grammar.accept_token(token)
    rest = begin[3:-1]
    assert forced_chain(grammar, [5] * len(rest), tokenizer, len(tokenizer)) == rest


def test_forced_chain_leaves_the_grammar_as_it_was(grammar: Any, tokenizer: Any) -> None:
    before = allowed(grammar, len(tokenizer))
    forced_chain(grammar, [5] * 3, tokenizer, len(tokenizer))
    assert allowed(grammar, len(tokenizer)) == before
    # Nothing is forced and the draft is forbidden: no token is taken in, and none taken back.
    for token in encoded(tokenizer, BEGIN):
        grammar.accept_token(token)
    before = allowed(grammar, len(tokenizer))
    assert forced_chain(grammar, [5] * 3, tokenizer, len(tokenizer)) == [5] * 3
    assert allowed(grammar, len(tokenizer)) == before


def test_forced_chain_keeps_drafts_that_the_grammar_allows(grammar: Any, tokenizer: Any) -> None:
    for token in encoded(tokenizer, BEGIN):
        grammar.accept_token(token)
    (letter,) = encoded(tokenizer, "a")
    # Then the end is forced, behind eight letters.
    drafts = [letter] * 8 + [5, 5]
    chain = forced_chain(grammar, drafts, tokenizer, len(tokenizer))
    assert chain[:8] == [letter] * 8
    assert chain[8:] == encoded(tokenizer, "</call>")[:2]


def test_forced_chain_drafts_the_only_token(backend: Any, tokenizer: Any) -> None:
    grammar = backend.dispatch_regex("[x]")
    (letter,) = encoded(tokenizer, "x")
    assert allowed(grammar, len(tokenizer)) == [letter]
    assert forced_chain(grammar, [5], tokenizer, len(tokenizer)) == [letter]


def test_forced_chain_leaves_the_last_token_of_a_forced_text_to_the_layer(
    backend: Any, tokenizer: Any
) -> None:
    """A longer token may go on behind it, and the layer knows better which."""
    tag = {"begin": "<call>ge", "content": {"type": "regex", "pattern": "[a-z]{2,8}"}, "end": "."}
    grammar = backend.dispatch_structural_tag(
        json.dumps({"type": "structural_tag", "format": {"type": "tag", **tag}})
    )
    *most, last = encoded(tokenizer, "<call>ge")
    for token in most:
        grammar.accept_token(token)
    possible = [token for token in allowed(grammar, len(tokenizer)) if token != last]
    text = tokenizer.decode([last])
    assert possible, text
    for draft in possible:
        assert forced_chain(grammar, [draft], tokenizer, len(tokenizer)) == [draft]
    assert forced_chain(grammar, [5], tokenizer, len(tokenizer)) == [last]


def test_forced_chain_drafts_the_only_token_where_no_text_is_forced(tokenizer: Any) -> None:
    """As at the end of a grammar, which allows the end of the turn alone."""

    class Ended:
        """Grammar that allows token 40."""

        def allocate_vocab_mask(self, vocab_size: int, batch_size: int, device: str) -> Tensor:
            return torch.zeros(1, -(-vocab_size // 32), dtype=torch.int32)

        def fill_vocab_mask(self, mask: Tensor, row: int) -> None:
            mask.zero_()
            mask[row, 1] = 1 << 8

        def is_terminated(self) -> bool:
            return False

        def accept_token(self, token: int) -> None:
            assert token == 40

        def rollback(self, count: int) -> None:
            assert count == 1

        def try_jump_forward(self, tokenizer: Any) -> None:
            return None

    assert forced_chain(Ended(), [5], tokenizer, len(tokenizer)) == [40]


def test_forced_chain_ends_with_the_grammar(backend: Any, tokenizer: Any) -> None:
    grammar = backend.dispatch_regex("[x]")
    grammar.accept_token(encoded(tokenizer, "x")[0])
    grammar.accept_token(0)
    assert grammar.is_terminated()
    assert forced_chain(grammar, [7, 8], tokenizer, len(tokenizer)) == [7, 8]


def test_with_forced_tokens_changes_requests_with_a_grammar_alone(grammar: Any, tokenizer: Any) -> None:
    chains = torch.tensor([[1, 5, 5, 5], [2, 5, 5, 5]], dtype=torch.int64)
    forced = with_forced_tokens(chains, [None, grammar], tokenizer, len(tokenizer))
    assert forced.tolist() == [[1, 5, 5, 5], [2, *encoded(tokenizer, BEGIN)[:3]]]
    assert forced.dtype == chains.dtype
    assert chains[1].tolist() == [2, 5, 5, 5]


def batch_of(grammars: Sequence[Any], chains: Tensor, *, idle: bool = False) -> Any:
    return SimpleNamespace(
        reqs=[SimpleNamespace(grammar=grammar) for grammar in grammars],
        has_grammar=any(grammar is not None for grammar in grammars),
        forward_mode=SimpleNamespace(is_idle=lambda: idle),
        sampling_info=SimpleNamespace(vocab_size=len(chains)),
        spec_info=SimpleNamespace(draft_token=chains.flatten(), draft_token_num=chains.shape[1]),
    )


@pytest.fixture
def forcing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar forces its own name, whatever it is."""
    monkeypatch.setattr(forced_tokens, "forced_chain", lambda grammar, drafts, *_: [grammar] * len(drafts))


CHAINS = torch.tensor([[1, 5], [2, 5], [3, 5]])


def verified(grammars: Sequence[Any], **named: Any) -> list[int]:
    """Return the tokens that SGLang verifies."""
    batch = batch_of(grammars, CHAINS)
    seen: list[int] = []
    named = {"target_worker": SimpleNamespace(tokenizer=None), **named}
    forced_tokens.run_eagle_verify(
        lambda batch, **_: seen.extend(batch.spec_info.draft_token.tolist()), batch, **named
    )
    return seen


@pytest.mark.usefixtures("forcing")
def test_run_eagle_verify_waits_for_the_last_pass_if_half_of_the_requests_gain() -> None:
    waits: list[bool] = []
    barrier = lambda: waits.append(True)  # noqa: E731
    assert verified([None, None, 9], grammar_barrier=barrier) == [1, 5, 2, 5, 3, 5]
    assert waits == []
    assert verified([None, 8, 9], grammar_barrier=barrier) == [1, 5, 2, 8, 3, 9]
    assert waits == [True]


@pytest.mark.usefixtures("forcing")
def test_run_eagle_verify_drafts_for_any_request_without_overlap() -> None:
    assert verified([None, None, 9], grammar_barrier=None) == [1, 5, 2, 5, 3, 9]
    assert verified([None, None, 9]) == [1, 5, 2, 5, 3, 9]


@pytest.mark.usefixtures("forcing")
def test_run_eagle_verify_leaves_drafts_alone_if_it_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVAL_GRAMMAR_DRAFTS", "False")
    assert verified([None, None, 9]) == [1, 5, 2, 5, 3, 5]
