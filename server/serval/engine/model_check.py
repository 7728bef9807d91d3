"""Comparing the models that engines serve: those of a fleet have to be the same."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from serval.engine.member import Member
from serval.engine.protocol import EngineInfo

# Text that tokenizers split in different ways: several scripts, numbers, spaces and code.
PROBE: Final = (
    "The quick brown fox, 3.14159 and 1234567890; naïve façade Straße.\n\tfor i in range(10):  print(i)\n"
    "龙猫 はひふ 한국어 русский עברית 🦊🚀"
)


class ModelIdentity(Struct, frozen=True):
    """Properties in which all engines have to agree. Empty and None: the engine does not tell."""

    architectures: tuple[str, ...]
    context_length: int
    # Ids of `PROBE` by the engine's tokenizer.
    tokens: tuple[int, ...] | None


async def identity_of(client: Member, info: EngineInfo) -> ModelIdentity:
    """Ask the engine for the identity of its model."""
    tokens = await client.tokens_of(PROBE)
    return ModelIdentity(info.architectures, info.context_length, None if tokens is None else tuple(tokens))


def most_common(identities: Iterable[ModelIdentity]) -> ModelIdentity | None:
    """Return the identity that most engines have, the first of equally many; None without any."""
    counted = Counter(identities).most_common(1)
    return counted[0][0] if counted else None


def difference(found: ModelIdentity, expected: ModelIdentity) -> str | None:
    """Return what is different, as the end of a sentence about the engine; None if it can be used."""
    if found.architectures and expected.architectures and found.architectures != expected.architectures:
        return f"it serves {_listed(found.architectures)}, and the others {_listed(expected.architectures)}"
    if found.context_length != expected.context_length:
        return (
            f"its context has {found.context_length} tokens, and that of the others {expected.context_length}"
        )
    if found.tokens is not None and expected.tokens is not None and found.tokens != expected.tokens:
        return "its tokenizer is another one"
    return None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
