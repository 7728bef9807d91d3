"""`GET /v1/models` and `GET /v1/models/{id}`."""

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
    """A model; `max_model_len` counts the tokens of prompt and answer together."""

    id: str
    object: Literal["model"]
    created: UnixTime
    owned_by: str
    max_model_len: int


class ModelList(Answer):
    """The models that the key may use."""

    object: Literal["list"]
    data: list[ModelObject]


def check_model(name: str, served: ServedModel, identity: Identity) -> None:
    """Raise `ModelNotFoundError` for another model, `ModelNotAllowedError` if the key may not use it."""
    if name != served.name:
        raise ModelNotFoundError(
            f"The model {name[:200]!r} does not exist here. This server has {served.name!r}.", param="model"
        )
    identity.require_model(name)


@router.get(MODELS.path, summary="List the models")
async def list_models(caller: Caller, context: Context) -> ModelList:
    """The served model, if the key may use it."""
    visible = caller.may_use(context.model.name)
    return ModelList(object="list", data=[_model_object(context.model)] if visible else [])


@router.get(MODEL.path, summary="Get a model", responses=errors(404))
async def retrieve_model(
    model_id: Annotated[str, Path(min_length=1, description="May hold slashes.")],
    caller: Caller,
    context: Context,
) -> ModelObject:
    check_model(model_id, context.model, caller)
    return _model_object(context.model)


def _model_object(model: ServedModel) -> ModelObject:
    return ModelObject(
        id=model.name,
        object="model",
        created=model.created,
        owned_by="serval",
        max_model_len=model.context_length,
    )
