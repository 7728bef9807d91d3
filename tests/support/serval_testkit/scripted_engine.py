"""ScriptedEngine: a StandInEngine that answers by the prompt, as a model would that follows a script.

It also has a prefix cache without a limit, so that tests see which part of each prompt an engine would find.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tokenizers import Tokenizer

from serval.chat.prompt_history import shared_length
from serval_testkit.gateway import DEMO_CHECKPOINT
from serval_testkit.longcat_text import call, pair
from serval_testkit.stand_in_engine import Answer, StandInEngine, ids_of

_PIECE = 7
_ASSISTANT = "<longcat_assistant>"
_DECLARATION = "<longcat_tool_declare>"
CONTEXT = 131_072


@lru_cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.from_file(f"{DEMO_CHECKPOINT}/tokenizer.json")


def _token(text: str) -> int:
    return int(_tokenizer().token_to_id(text))


@dataclass(frozen=True)
class Prompt:
    """A prompt, how many of its tokens the cache held, and the tokens of its answer."""

    ids: list[int]
    sampling: Mapping[str, Any]
    found: int
    answer: list[int] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Text of the prompt, control tokens included."""
        return str(_tokenizer().decode(self.ids, skip_special_tokens=False))

    @property
    def declares_tools(self) -> bool:
        """True for an agent's work; agents ask for titles and summaries without tools."""
        return _token(_DECLARATION) in self.ids

    @property
    def turns(self) -> int:
        """Number of the assistant's turns that are over."""
        return self.ids.count(_token(_ASSISTANT)) - 1

    @property
    def last(self) -> str:
        """Text after the last finished turn of the assistant: the newest message or results."""
        return self.text.removesuffix(_ASSISTANT).rpartition("</longcat_s>")[2]


Script = Callable[[Prompt], Answer]


@dataclass
class ScriptedEngine:
    """The engine, its script, and the prompts that it was given."""

    script: Script
    context_length: int = CONTEXT
    prompts: list[Prompt] = field(default_factory=list)
    engine: StandInEngine = field(init=False)

    def __post_init__(self) -> None:
        length = self.context_length
        # SGLang keeps a few tokens of the context for itself.
        self.engine = StandInEngine(
            model_path=str(DEMO_CHECKPOINT), context_length=length, max_req_input_len=length - 6
        )
        self.engine.script = self._answer

    def _answer(self, body: dict[str, Any]) -> Answer:
        ids = body["input_ids"]
        found = max((shared_length(ids, known.ids + known.answer) for known in self.prompts), default=0)
        prompt = Prompt(ids, body["sampling_params"], found)
        self.prompts.append(prompt)
        answer = self.script(prompt)
        # SGLang computes the last token of a prompt anew.
        answer.cached_tokens = min(found, len(ids) - 1)
        if answer.fault is None:
            prompt.answer.extend(token for piece in ids_of(answer, self.engine.model_path) for token in piece)
        return answer


def failing_once(script: Script, failure: Answer, *, turn: int) -> Script:
    """Return `script`, but for the first answer of this turn."""
    failures = [failure]

    def answer(prompt: Prompt) -> Answer:
        if failures and prompt.declares_tools and prompt.turns == turn:
            return failures.pop()
        return script(prompt)

    return answer


def says(text: str, **fields: Any) -> Answer:
    """Answer with `text`, in pieces."""
    return Answer([text[at : at + _PIECE] for at in range(0, len(text), _PIECE)], **fields)


def calls(name: str, /, **arguments: str) -> str:
    """Return a call in the model's format, for a script."""
    return call(name, *(pair(key, value) for key, value in arguments.items()))


def steps(task: str, turns: Sequence[str], *, other: str = "A title") -> Script:
    """Return a script whose n-th answer in a conversation about `task` is `turns[n]`, the last one repeated.

    Conversations about something else, and requests for a title or a summary, get `other`.
    """

    def script(prompt: Prompt) -> Answer:
        if not prompt.declares_tools or task not in prompt.text:
            return says(other)
        return says(turns[min(prompt.turns, len(turns) - 1)])

    return script
