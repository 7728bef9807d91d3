"""`GET /v1/models` and `GET /v1/models/{id}`, with the fields of OpenAI's form and of Anthropic's in one."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path

from serval.api.context import ServedModel
from serval.api.dependencies import Caller, Context
from serval.api.endpoints import MODEL, MODELS
from serval.api.responses import WITH_KEY, errors, success
from serval.caller.identity import Identity
from serval.errors import ModelNotFoundError
from serval.wire.answers import Answer, UnixTime

router = APIRouter(responses={**success(), **WITH_KEY})


class ModelObject(Answer):
    """A model, under one of its names; `root` is its own name.

    `max_model_len`, `context_length` and `context_window` are one number under the names of vLLM, OpenRouter
    and Groq: the tokens of prompt and answer together. `max_input_tokens` is the longest prompt. Answers
    have no limit but the context, so `max_tokens` (Anthropic) and `max_completion_tokens` (OpenRouter, Groq)
    are null. `aliases` are further names and patterns that stand for the model. `checkpoint` names the
    weights: `sha256:` and the SHA-256 of the manifest that `serval checkpoint hash` wrote beside them, or the
    engine's `--weight-version`; null without either.
    """

    id: str
    object: Literal["model"]
    created: UnixTime
    owned_by: str
    root: str
    aliases: list[str]
    max_model_len: int
    context_length: int
    context_window: int
    max_completion_tokens: None
    checkpoint: str | None
    # Anthropic's form.
    type: Literal["model"]
    display_name: str
    created_at: datetime
    max_input_tokens: int
    max_tokens: None


class ModelList(Answer):
    """The names of the models that the key may use. The list is always whole."""

    object: Literal["list"]
    data: list[ModelObject]
    # Anthropic's form.
    has_more: Literal[False]
    first_id: str | None
    last_id: str | None


def check_model(name: str, served: ServedModel, identity: Identity) -> None:
    """Check that `name` is the served model's, or an alias, and that the key may use the model.

    Raises `ModelNotFoundError` for another model, `ModelNotAllowedError` if the key may not use it. Keys are
    restricted by the model's own name: an alias allows nothing more.
    """
    if name != served.name and not served.aliases.cover(name):
        aliases = ", ".join(served.aliases.patterns)
        raise ModelNotFoundError(
            f"The model {name[:200]!r} does not exist here. This server has {served.name!r}"
            f"{f', also called {aliases}' if aliases else ''}.",
            param="model",
        )
    identity.require_model(served.name)


@router.get(MODELS.path, summary="List the models")
async def list_models(caller: Caller, context: Context) -> ModelList:
    """The served model, under its name and its aliases, if the key may use it."""
    served = context.model
    names = [served.name, *served.aliases.names] if caller.may_use(served.name) else []
    return ModelList(
        object="list",
        data=[_model_object(name, served) for name in names],
        has_more=False,
        first_id=names[0] if names else None,
        last_id=names[-1] if names else None,
    )


@router.get(MODEL.path, summary="Get a model", responses=errors(404))
async def retrieve_model(
    model_id: Annotated[str, Path(min_length=1, description="May hold slashes.")],
    caller: Caller,
    context: Context,
) -> ModelObject:
    check_model(model_id, context.model, caller)
    return _model_object(model_id, context.model)


def _model_object(name: str, model: ServedModel) -> ModelObject:
    return ModelObject(
        id=name,
        object="model",
        created=model.created,
        owned_by="serval",
        root=model.name,
        aliases=list(model.aliases.patterns),
        max_model_len=model.context_length,
        context_length=model.context_length,
        context_window=model.context_length,
        max_completion_tokens=None,
        checkpoint=model.checkpoint,
        type="model",
        display_name=name,
        created_at=datetime.fromtimestamp(model.created, UTC),
        max_input_tokens=model.max_prompt_tokens,
        max_tokens=None,
    )
