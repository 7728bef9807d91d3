"""`GET /v1/models` and `GET /v1/models/{id}`."""

from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from serval.api.context import ApiContext, ServedModel
from serval.api.http import send_json
from serval.errors import ModelNotFoundError


def check_model(name: str, served: ServedModel) -> None:
    """Raise `ModelNotFoundError` unless `name` is what is served."""
    if name != served.name:
        raise ModelNotFoundError(
            f"The model {name[:200]!r} does not exist here. This server has {served.name!r}.", param="model"
        )


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "serval",
        "max_model_len": model.context_length,
    }


class ListModels:
    """The list of models: the one that is served."""

    def __init__(self, context: ApiContext) -> None:
        self._body = msgspec.json.encode({"object": "list", "data": [_model_object(context.model)]})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await send_json(send, self._body)


class RetrieveModel:
    """One model by its name, which may hold slashes."""

    def __init__(self, context: ApiContext) -> None:
        self._model = context.model
        self._body = msgspec.json.encode(_model_object(context.model))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        check_model(scope["path_params"]["model_id"], self._model)
        await send_json(send, self._body)
