"""Sealing of conversations as token ids."""

import random
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serval.chat.render import load_chat
from serval.chat.sealed_turn import PREFIX, ExpiredSealError, SealedTurn, TurnSealer
from serval.errors import InvalidRequestError
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.model_folder import write_model_folder

VOCABULARY = 131_072
CONTEXT = 200_000
TURN = SealedTurn(array("I", [1, 70_000, 131_071, 5]), b"head", b"digest", ["call_1", "call_2"])


def sealer(
    *, secret: str = "s" * 32, model: str = "m", files: str = "f", vocabulary_size: int = VOCABULARY
) -> TurnSealer:
    return TurnSealer(
        secret,
        model=model,
        files=files,
        vocabulary_size=vocabulary_size,
        max_tokens=CONTEXT,
        keep_s=100,
    )


def opened(text: str, by: TurnSealer, *, subject: str = "key", now: float = 1050.0) -> SealedTurn:
    return by.open(text, subject=subject, now=now, param="input[0].encrypted_content")


def refusal(text: str, by: TurnSealer, *, subject: str = "key") -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        opened(text, by, subject=subject)
    return caught.value


@settings(max_examples=60, deadline=None)
@given(
    ids=st.lists(st.integers(0, VOCABULARY - 1), max_size=300),
    digests=st.tuples(st.binary(max_size=40), st.binary(max_size=40)),
    calls=st.lists(st.text(max_size=10), max_size=5),
    subject=st.text(),
)
def test_sealed_turn_is_opened_as_it_was(
    ids: list[int], digests: tuple[bytes, bytes], calls: list[str], subject: str
) -> None:
    turn = SealedTurn(array("I", ids), *digests, calls)
    text = sealer().seal(turn, subject=subject, now=1000)
    assert text.isascii()
    assert opened(text, sealer(), subject=subject) == turn


@pytest.mark.parametrize("call", ["c", "cc", "ccc"])
def test_sealed_turn_with_any_changed_character_is_refused(call: str) -> None:
    # Nonce, ciphertext, tag, and the unused bits of the last character before the padding.
    text = sealer().seal(SealedTurn(TURN.ids, b"", b"", [call]), subject="key", now=1000)
    for place in range(len(PREFIX), len(text)):
        for other in (chr(ord(text[place]) + 1), "A", "B", "/", "=", "é", "\n"):
            changed = text[:place] + other + text[place + 1 :]
            if changed != text:
                error = refusal(changed, sealer())
                assert (error.code, error.param) == (
                    "invalid_encrypted_content",
                    "input[0].encrypted_content",
                )


def test_sealed_turn_that_is_cut_or_longer_is_refused() -> None:
    text = sealer().seal(TURN, subject="key", now=1000)
    for changed in [*(text[:end] for end in range(len(PREFIX), len(text))), text + "AAAA", text + "="]:
        assert refusal(changed, sealer()).code == "invalid_encrypted_content"


@pytest.mark.parametrize(
    "other", [{"secret": "t" * 32}, {"model": "n"}, {"files": "g"}, {"vocabulary_size": 70_000}]
)
def test_sealed_turn_of_another_server_is_refused(other: dict[str, str]) -> None:
    text = sealer().seal(TURN, subject="key", now=1000)
    assert refusal(text, sealer(**other)).code == "invalid_encrypted_content"  # type: ignore[arg-type]


def test_sealed_turn_of_another_key_is_refused() -> None:
    text = sealer().seal(TURN, subject="key", now=1000)
    assert refusal(text, sealer(), subject="other").code == "invalid_encrypted_content"


def test_sealed_turn_expires() -> None:
    text = sealer().seal(TURN, subject="key", now=1000)
    assert opened(text, sealer(), now=1099.5) == TURN
    with pytest.raises(ExpiredSealError) as caught:
        opened(text, sealer(), now=1100)
    assert caught.value.code == "encrypted_content_expired"


def test_sealed_turn_of_more_tokens_than_the_context_is_refused() -> None:
    whole = SealedTurn(array("I", [7]) * CONTEXT, b"", b"", [])
    assert opened(sealer().seal(whole, subject="key", now=1000), sealer()) == whole
    longer = SealedTurn(array("I", [7]) * (CONTEXT + 1), b"", b"")
    text = sealer().seal(longer, subject="key", now=1000)
    assert refusal(text, sealer()).code == "invalid_encrypted_content"


def test_sealed_turn_hides_equal_conversations() -> None:
    first, second = (sealer().seal(TURN, subject="key", now=1000) for _ in range(2))
    assert first != second


def test_sealed_turn_of_100k_random_tokens_has_under_350_kb() -> None:
    # Random ids are the worst case; those of text need about half.
    numbers = random.Random(1)
    ids = array("I", (numbers.randrange(VOCABULARY) for _ in range(100_000)))
    text = sealer().seal(SealedTurn(ids, b"h" * 32, b"d" * 32), subject="key", now=1000)
    print(f"100,000 random tokens: {len(text)} bytes")
    assert len(text) < 350_000


@pytest.mark.parametrize(
    "template",
    [
        # Numbers the turns.
        "{% for m in messages %}<longcat_user>{{ loop.index }}{{ m.content }}"
        "{% if m.role == 'assistant' %}</longcat_s>{% endif %}{% endfor %}<longcat_assistant>",
        # Writes the tools before the last message only.
        "{% for m in messages %}{% if loop.last and tools %}{{ tools }}{% endif %}"
        "{% if m.role == 'assistant' %}<longcat_assistant>{{ m.content }}</longcat_s>"
        "{% else %}<longcat_user>{{ m.content }}{% endif %}{% endfor %}<longcat_assistant>",
        # Opens an answer in another way than it repeats one.
        "{% for m in messages %}{% if m.role == 'assistant' %}<longcat_assistant>{{ m.content }}</longcat_s>"
        "{% else %}<longcat_user>{{ m.content }}{% endif %}{% endfor %}<longcat_assistant> ",
    ],
)
def test_tokens_are_not_continued_if_the_template_renders_turns_anew(tmp_path: Path, template: str) -> None:
    assert not load_chat(write_model_folder(tmp_path, template=template)).can_continue


def test_replicas_agree_on_their_files_and_other_templates_differ(tmp_path: Path) -> None:
    renderer = load_chat(DEMO_CHECKPOINT)
    assert renderer.can_continue
    assert renderer.files == load_chat(DEMO_CHECKPOINT).files
    body = "{% for m in messages %}<longcat_user>{{ m.content }}{% endfor %}"
    assert load_chat(write_model_folder(tmp_path, template=body)).files != renderer.files
