"""Parts of the application that endpoints share."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serval.api.model_aliases import ModelAliases
from serval.auth.running import RunningRequests
from serval.chat.own_turns import OwnTurns
from serval.chat.prompt_history import PromptHistory
from serval.chat.render import ChatRenderer
from serval.chat.sealed_turn import TurnSealer
from serval.grammar.dialect import Dialect
from serval.limits.gate import Gate
from serval.scheduling.body_budget import BodyBudget
from serval.scheduling.engine import Scheduler
from serval.scheduling.render_queue import RenderQueue
from serval.settings import Settings
from serval.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serval.api.kept_responses import KeptResponses
    from serval.batches.service import Batches
    from serval.store.usage import UsageTable


@dataclass(frozen=True)
class ServedModel:
    """The served model, by its name and others. Lengths are in tokens; `created` is Unix time.

    `checkpoint` is the engine's name of its weights; None without one.
    """

    name: str
    created: int
    context_length: int
    max_prompt_tokens: int
    checkpoint: str | None = None
    aliases: ModelAliases = field(default_factory=ModelAliases)


@dataclass(frozen=True)
class ApiContext:
    """The application's parts. They do not change while it runs."""

    settings: Settings
    engine: Scheduler
    chat: ChatRenderer
    model: ServedModel
    dialect: Dialect
    metrics: Metrics
    gate: Gate
    bodies: BodyBudget
    rendering: RenderQueue
    running: RunningRequests
    prompts: PromptHistory
    own_turns: OwnTurns
    # None without a key database, and where the settings keep none.
    kept_responses: "KeptResponses | None" = None
    # None without a key database, and where the settings keep no usage.
    usage: "UsageTable | None" = None
    # None without a folder for their files.
    batches: "Batches | None" = None
    # None without a secret.
    sealer: TurnSealer | None = None
