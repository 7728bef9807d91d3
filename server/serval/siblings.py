"""The models that the gateway knows by name, and their differences as data.

A checkpoint's own files decide what they can: its chat template the prompt, the switch for thinking and the
reasoning that is shown again, `generation_config.json` the defaults of sampling, the engine's report the
context. No file states the format of tool calls: the template shows it by its markers. What stands here by
name serves to find a template that is another model's. What the engine must know of the models is in
`serval_sglang.siblings`; the page SIBLINGS.md shows both.

To add a model: a `Sibling`, for a format of calls of its own a dialect (CONTRIBUTING.md) and its mark.
"""

from collections.abc import Collection
from typing import Final

from msgspec import Struct

from serval.grammar.dialect import Dialect
from serval.grammar.dialects.longcat import LONGCAT
from serval.grammar.dialects.longcat_json import LONGCAT_JSON
from serval.tools.markers import KEY_OPEN, TOOL_CALL_OPEN

# Text of a template that writes calls in a dialect; the first one found counts.
_MARKS: Final = ((KEY_OPEN, LONGCAT), (TOOL_CALL_OPEN, LONGCAT_JSON))


class Sibling(Struct, frozen=True):
    """A model, by its name on Hugging Face's hub; those of its quantised copies begin with it.

    - `dialect`: format of its tool calls
    - `switch`: variable by which its template switches thinking; None if that is not known
    """

    name: str
    dialect: Dialect
    switch: str | None = None


SIBLINGS: Final = (
    # Its model card calls it a model that does not think: the switch only shows old reasoning again.
    Sibling("LongCat-Flash-Lite", LONGCAT, switch="enable_thinking"),
    # Its template thinks by default; null for the switch is plain mode.
    Sibling("LongCat-Flash-Lite-Sparse", LONGCAT, switch="enable_thinking"),
    Sibling("LongCat-Flash-Chat", LONGCAT_JSON),
    Sibling("LongCat-Flash-Thinking", LONGCAT_JSON),
    Sibling("LongCat-Flash-Thinking-2601", LONGCAT, switch="enable_thinking"),
)


def dialect_of(template: str) -> Dialect:
    """Return the dialect of the calls in this source of a chat template.

    Lite's, whose parser reads the others too, for a template without calls.
    """
    return next((dialect for mark, dialect in _MARKS if mark in template), LONGCAT)


def sibling_of(model: str) -> Sibling | None:
    """Return the sibling with the longest name that `model`, a name or the end of a path, begins with."""
    name = model.rstrip("/").rpartition("/")[2].lower()
    found = [sibling for sibling in SIBLINGS if name.startswith(sibling.name.lower())]
    return max(found, key=lambda sibling: len(sibling.name), default=None)


def doubts(model: str, template: str, variables: Collection[str]) -> list[str]:
    """Return sentences that say how a template differs from that of the sibling with the name `model`.

    `variables` are those that the template reads. The list is empty for an unknown name.
    """
    known = sibling_of(model)
    if known is None:
        return []
    found = []
    if dialect_of(template) is not known.dialect:
        found.append("it writes tool calls in another format")
    if known.switch is not None and known.switch not in variables:
        found.append(f"it does not read {known.switch}, by which thinking is switched")
    return [f"the chat template is not {known.name}'s: {what}" for what in found]
