"""The models that Serval serves, and their differences as data. Imports neither torch nor SGLang.

Everything that the adapter knows of one model by its name stands here; code asks the configuration (for
instance `has_ngrams`), never a name. What the gateway must know (tool calls, thinking) is in
`serval.siblings`; the page SIBLINGS.md shows both, and says what was tested.

To add a model:

1. `config.py`: the fields that its config.json has beyond those there, and what `architecture` returns.
2. `known_configs.py`: its configuration, and a tiny one of the same structure in which mistakes show.
3. Below: its `Architecture`, if config.json names a new one, and a `Sibling` for each published checkpoint.
   A model that must not start on a GPU yet has its reason in `Architecture.refused_on_gpu`.
4. SIBLINGS.md: its rows; `tests/model_adapter/test_siblings.py` compares them with this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from serval_sglang.config import FLASH_ARCHITECTURE, NGRAM_ARCHITECTURE, SPARSE_ARCHITECTURE, LongcatConfig
from serval_sglang.known_configs import FLASH, LITE, LITE_SPARSE, TINY, TINY_FLASH, TINY_SPARSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """An architecture as config.json names it.

    - `tiny`: a configuration of the same structure at sizes for tests
    - `refused_on_gpu`: a sentence that says why no engine on a GPU serves it; None if one does
    """

    tiny: LongcatConfig
    refused_on_gpu: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sibling:
    """A published checkpoint.

    - `name`: what commands call it (`serval plan --model lite`)
    - `repository`: its name on Hugging Face's hub
    - `weights`: format of its linear layers; "fp8" is Meituan's, in blocks of 128 x 128
    - `context_tokens`: the longest context that its authors promise
    """

    name: str
    repository: str
    config: LongcatConfig
    weights: Literal["bf16", "fp8"]
    context_tokens: int


ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    NGRAM_ARCHITECTURE: Architecture(tiny=TINY),
    FLASH_ARCHITECTURE: Architecture(tiny=TINY_FLASH),
    SPARSE_ARCHITECTURE: Architecture(
        tiny=TINY_SPARSE,
        refused_on_gpu=(
            "no engine on a GPU serves LongCat-Flash-Lite-Sparse yet, because its sparse attention has not "
            "been measured there: SGLang's kernels keep the indexer's keys in FP8 and would choose other "
            "tokens than the model was compared with; --device cpu computes it exactly"
        ),
    ),
}

# Sources: config.json of copies of Lite; transformers' LongcatFlashConfig, whose defaults are Flash-Chat's;
# the model cards. No config.json of a Thinking model was read: its authors deploy it as they do Flash-Chat.
SIBLINGS: Final = (
    Sibling(
        name="lite",
        repository="meituan-longcat/LongCat-Flash-Lite",
        config=LITE,
        weights="bf16",
        context_tokens=262_144,
    ),
    Sibling(
        name="lite-fp8",
        repository="meituan-longcat/LongCat-Flash-Lite-FP8",
        config=LITE,
        weights="fp8",
        context_tokens=262_144,
    ),
    Sibling(
        name="lite-sparse",
        repository="meituan-longcat/LongCat-Flash-Lite-Sparse",
        config=LITE_SPARSE,
        weights="bf16",
        context_tokens=983_040,
    ),
    Sibling(
        name="flash-chat",
        repository="meituan-longcat/LongCat-Flash-Chat",
        config=FLASH,
        weights="bf16",
        context_tokens=131_072,
    ),
    Sibling(
        name="flash-thinking",
        repository="meituan-longcat/LongCat-Flash-Thinking",
        config=FLASH,
        weights="bf16",
        context_tokens=131_072,
    ),
    Sibling(
        name="flash-thinking-2601",
        repository="meituan-longcat/LongCat-Flash-Thinking-2601",
        config=FLASH,
        weights="bf16",
        context_tokens=131_072,
    ),
    Sibling(
        name="flash-thinking-2601-fp8",
        repository="meituan-longcat/LongCat-Flash-Thinking-2601-FP8",
        config=FLASH,
        weights="fp8",
        context_tokens=131_072,
    ),
)

BY_NAME: Final[Mapping[str, Sibling]] = {sibling.name: sibling for sibling in SIBLINGS}
