"""Long texts encoded in windows: the tokens are those of the whole text, and work ends at a limit."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from serval.chat.long_text import TokenLimitError, can_be_cut, encode_long, longest_token
from serval.chat.tokenizer import ControlSafeTokenizer, load_tokenizer
from serval.errors import InvalidRequestError
from serval_testkit.gateway import DEMO_CHECKPOINT

TEXTS = [
    "The quick brown fox jumps over the lazy dog's 12345 bones.  It isn't    far\n\n\nto go\t\tthere, is it?",
    '{"type": "object", "properties": {"city": {"type": "string"}}} def f(x):\n        return x ** 2',
    "北京 的 天气 怎么样？ こんにちは мир ñandú \U0001f9ed\U0001f468\u200d\U0001f469",
]
# As tokenizers of well-known models cut text into words.
PATTERNS = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "Bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
}


def trained(pattern: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


TOKENIZERS = {name: trained(pattern) for name, pattern in PATTERNS.items()} | {
    "demo model": Tokenizer.from_file(str(DEMO_CHECKPOINT / "tokenizer.json"))
}


class Watched:
    """A tokenizer that notes how much text it was given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.characters = 0

    def encode_batch(self, texts: list[str], **options: Any) -> Any:
        self.characters += sum(map(len, texts))
        return self._tokenizer.encode_batch(texts, **options)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=30, deadline=None)
@given(
    pieces=st.lists(
        st.one_of(
            st.sampled_from(TEXTS), st.text(max_size=12), st.sampled_from([" ", "\n", "\n  ", "x" * 40])
        ),
        min_size=8,
        max_size=40,
    )
)
def test_encode_long_gives_the_tokens_of_the_whole_text(name: str, pieces: list[str]) -> None:
    """Tried: four patterns of words, lookahead at spaces, line breaks, digits, scripts, any characters."""
    tokenizer, text = TOKENIZERS[name], "".join(pieces)
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    assert list(encode_long(tokenizer, text, limit=len(whole), window=400, margin=150)) == whole


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("character", ["a", " ", "7", "京", "\n", "\u0301", "\U0001f9ed", "/"])
def test_encode_long_cuts_a_word_that_is_longer_than_a_window(name: str, character: str) -> None:
    tokenizer, text = TOKENIZERS[name], character * 3000
    ids = list(encode_long(tokenizer, text, limit=20_000, window=400, margin=150))
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("text", ["word " * 200_000, "x" * 1_000_000], ids=["words", "one word"])
def test_encode_long_stops_soon_after_the_limit(text: str) -> None:
    watched: Any = Watched(TOKENIZERS["GPT-2"])
    with pytest.raises(TokenLimitError):
        encode_long(watched, text, limit=100, window=400, margin=150)
    assert watched.characters < 3000


def test_encode_text_cuts_long_texts_only() -> None:
    tokenizer = ControlSafeTokenizer(TOKENIZERS["Llama 3"], [])
    text = "The answer is 42.\n" * 8_000
    assert len(text) > 2 * 65_536
    expected = TOKENIZERS["Llama 3"].encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_text(text).tolist() == expected
    assert tokenizer.encode_text(text, limit=len(expected)).tolist() == expected
    for limit in (0, 10, len(expected) - 1):
        with pytest.raises(TokenLimitError):
            tokenizer.encode_text(text, limit=limit)
    with pytest.raises(TokenLimitError):
        tokenizer.encode_text("short", limit=0)


def test_encode_text_refuses_without_encoding_what_cannot_fit() -> None:
    watched: Any = Watched(TOKENIZERS["GPT-2"])
    longest = longest_token(TOKENIZERS["GPT-2"], without=frozenset())
    tokenizer = ControlSafeTokenizer(TOKENIZERS["GPT-2"], [])
    tokenizer._plain = watched
    assert tokenizer.longest_text(7) == 7 * longest
    with pytest.raises(TokenLimitError):
        tokenizer.encode_text(" " * (tokenizer.longest_text(7) + 1), limit=7)
    assert watched.characters == 0


def test_encode_text_finds_a_lone_surrogate_in_a_long_text() -> None:
    tokenizer, _ = load_tokenizer(DEMO_CHECKPOINT)
    with pytest.raises(InvalidRequestError, match="surrogate"):
        tokenizer.encode_text("word " * 30_000 + "\ud800")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_longest_token_bounds_what_a_token_stands_for(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    longest = longest_token(tokenizer, without=frozenset())
    assert max(len(tokenizer.decode([token])) for token in tokenizer.get_vocab().values()) <= longest < 200
    assert can_be_cut(tokenizer)


def test_can_be_cut_is_false_if_texts_get_a_space_in_front() -> None:
    tokenizer = Tokenizer(models.BPE({"▁": 0, "x": 1, "▁x": 2}, [("▁", "x")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    assert not can_be_cut(tokenizer)
    assert ControlSafeTokenizer(tokenizer, []).encode_text("x" * 200_000).tolist().count(2) == 1
