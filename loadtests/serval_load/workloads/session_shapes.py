"""Sessions shaped like public traces of Claude Code, as conversations of random words.

Parameters are those of 710 sessions in the corpus of callanjfox/kv-cache-tester (commit 94f6046, Apache-2.0),
from which InferenceX AgentX began: its 739 traces without 29 whose files exceed 4 MB. Sizes are in tokens.
"LN m, s" is a log-normal distribution with median m and standard deviation s of the logarithm.

| field of `Shape` | in the corpus |
| --- | --- |
| `turns` | requests of a session: p50 45, p90 156; LN 45, 1.16 |
| `tools_tokens`, `system_tokens` | of a first prompt: p50 12,262 and 2,773 |
| `tool_sets`, `projects` | 343 pairs, of many users and versions; assumed here for one site: 2 and 8 |
| `task` | first prompt beyond both, below 60,000 tokens: LN 4,370, 1.35 |
| `resumed_share`, `resumed` | a third of all sessions begin with 60,000 or more: LN 128,800, 0.68 |
| `user_share` | turns after the first that a user begins, not a tool: 6,311 of 47,564 |
| `tool_result`, `user_message` | new tokens of a turn: LN 375, 1.81 (11 % have none) and LN 238, 1.69 |
| `answer` | LN 216, 0.90: p10 105, p90 899 |
| `tool_pause_s`, `user_pause_s` | between an answer and the next request: LN 9, 1.25 and LN 122, 1.76 |
| `subagents` | 63 in 17 sessions; p50 of the others that run beside one: 2. Drawn here: 1 to 4 at once |
| `subagent_share` | 17 of 710 sessions; assumed here: a quarter, so that short runs have some |
| `subagent_turns`, `subagent_prefix_tokens` | LN 11, 0.50; p50 8,684 |
| `subagent_task` | first prompt beyond that: p50 2,100; its spread of 0.5 is assumed |
| `subagent_result`, `subagent_answer`, `subagent_pause_s` | LN 2,259, 1.55; LN 235, 0.85; LN 4, 0.94 |

Other traces agree on the order: in TraceLab (arXiv:2606.30560, 140,338 requests of Claude Code) the median
request has 857 new tokens and an answer of 252, and users take 79 s. A session ends here when its context is
full; the real agent would compact it and go on.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

from serval.workload_files import Conversation, Spawn, Turn
from serval_load.workloads.sessions import words


@dataclass(frozen=True)
class LogNormal:
    """Log-normal distribution: its median, and the standard deviation of the logarithm."""

    median: float
    sigma: float

    def draw(self, source: random.Random) -> float:
        """Draw a value."""
        return self.median * math.exp(source.gauss(0.0, self.sigma))


@dataclass(frozen=True)
class Shape:
    """Distributions of the sessions; see the module. `most_turns` and `context` cut sessions short."""

    turns: LogNormal = LogNormal(45, 1.16)
    least_turns: int = 3
    most_turns: int = 1178
    context: int = 131_072
    tools_tokens: int = 12_262
    system_tokens: int = 2_773
    tool_sets: int = 2
    projects: int = 8
    task: LogNormal = LogNormal(4_370, 1.35)
    resumed_share: float = 1 / 3
    resumed: LogNormal = LogNormal(128_800, 0.68)
    user_share: float = 6_311 / 47_564
    tool_result: LogNormal = LogNormal(375, 1.81)
    user_message: LogNormal = LogNormal(238, 1.69)
    answer: LogNormal = LogNormal(216, 0.90)
    tool_pause_s: LogNormal = LogNormal(9, 1.25)
    user_pause_s: LogNormal = LogNormal(122, 1.76)
    subagent_share: float = 0.25
    most_subagents: int = 4
    subagent_turns: LogNormal = LogNormal(11, 0.50)
    subagent_prefix_tokens: int = 8_684
    subagent_task: LogNormal = LogNormal(2_100, 0.5)
    subagent_result: LogNormal = LogNormal(2_259, 1.55)
    subagent_answer: LogNormal = LogNormal(235, 0.85)
    subagent_pause_s: LogNormal = LogNormal(4, 0.94)

    def subagent(self) -> "Shape":
        """The shape of a subagent's session, which no user interrupts."""
        return replace(
            self,
            turns=self.subagent_turns,
            tools_tokens=self.subagent_prefix_tokens,
            system_tokens=0,
            task=self.subagent_task,
            resumed_share=0.0,
            user_share=0.0,
            tool_result=self.subagent_result,
            answer=self.subagent_answer,
            tool_pause_s=self.subagent_pause_s,
            subagent_share=0.0,
        )

    def scaled(self, factor: float) -> "Shape":
        """The same with all token counts multiplied; turns and pauses stay."""
        lengths = (
            "task", "resumed", "tool_result", "user_message", "answer",
            "subagent_task", "subagent_result", "subagent_answer",
        )  # fmt: skip
        counts = ("context", "tools_tokens", "system_tokens", "subagent_prefix_tokens")
        changed: dict[str, object] = {name: max(round(getattr(self, name) * factor), 1) for name in counts}
        for name in lengths:
            given = getattr(self, name)
            changed[name] = LogNormal(given.median * factor, given.sigma)
        return replace(self, **changed)  # type: ignore[arg-type]  # fields by name


def sessions(shape: Shape, count: int, *, seed: int) -> list[Conversation]:
    """Draw `count` sessions, each followed by its subagents. The same seed gives the same sessions.

    Raises `ValueError` if system prompts leave less than half of the context.
    """
    prefix = max(shape.tools_tokens + shape.system_tokens, shape.subagent_prefix_tokens)
    if prefix > shape.context // 2:
        raise ValueError(
            f"system prompts of {prefix:,} tokens leave too little of a context of {shape.context:,}; give a "
            "longer context, or scale the lengths down"
        )
    source = random.Random(seed)
    tool_sets = [words(source, shape.tools_tokens) for _ in range(shape.tool_sets)]
    projects = [words(source, shape.system_tokens) for _ in range(shape.projects)]
    subagent_system = words(source, shape.subagent_prefix_tokens)
    found: list[Conversation] = []
    for _ in range(count):
        # The tools come first, as in a rendered prompt, so that projects share them.
        system = f"{source.choice(tool_sets)} {source.choice(projects)}"
        parent = len(found)
        found.append(_session(shape, source, system))
        turns = len(found[parent].turns)
        if turns > 1 and source.random() < shape.subagent_share:
            spawn = Spawn(parent, source.randrange(turns - 1))
            for _ in range(source.randint(1, shape.most_subagents)):
                found.append(_session(shape.subagent(), source, subagent_system, after=spawn))
    return found


def _session(shape: Shape, source: random.Random, system: str, *, after: Spawn | None = None) -> Conversation:
    prefix = shape.tools_tokens + shape.system_tokens
    resumed = source.random() < shape.resumed_share
    task = round((shape.resumed if resumed else shape.task).draw(source))
    # Half of the context at most, or there would be no session.
    task = max(min(task, shape.context // 2 - prefix), 16)
    wanted = min(max(round(shape.turns.draw(source)), shape.least_turns), shape.most_turns)
    turns: list[Turn] = []
    length = prefix
    for new, pause_s in _turns(shape, source, task, wanted):
        answer = max(round(shape.answer.draw(source)), 1)
        length += new
        if length + answer > shape.context:
            break
        messages = [{"role": "user", "content": words(source, new)}]
        if not turns:
            messages.insert(0, {"role": "system", "content": system})
        turns.append(Turn(tuple(messages), length, answer, pause_s))
        length += answer
    return Conversation(tuple(turns), after)


def _turns(shape: Shape, source: random.Random, task: int, count: int) -> Iterator[tuple[int, float]]:
    """New tokens and pause of each turn."""
    yield task, 0.0
    for _ in range(count - 1):
        of_user = source.random() < shape.user_share
        new = (shape.user_message if of_user else shape.tool_result).draw(source)
        pause = (shape.user_pause_s if of_user else shape.tool_pause_s).draw(source)
        yield max(round(new), 1), round(pause, 3)
