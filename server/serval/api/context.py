"""Parts of the application that endpoints share."""

from dataclasses import dataclass

from serval.auth.running import RunningRequests
from serval.chat.render import ChatRenderer
from serval.grammar.dialect import Dialect
from serval.limits.gate import Gate
from serval.scheduling.body_budget import BodyBudget
from serval.scheduling.engine import Scheduler
from serval.scheduling.render_queue import RenderQueue
from serval.settings import Settings
from serval.telemetry.metrics import Metrics


@dataclass(frozen=True)
class ServedModel:
    """The served model, by the name that clients use. Lengths are in tokens; `created` is Unix time."""

    name: str
    created: int
    context_length: int
    max_prompt_tokens: int


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
