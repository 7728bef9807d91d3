"""`GET /v1/models` and `GET /v1/models/{id}`."""

from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from serval.api.context import ApiContext, ServedModel
from serval.api.http import identity_of, send_json
from serval.caller.identity import Identity
from serval.errors import ModelNotFoundError


def check_model(name: str, served: ServedModel, identity: Identity) -> None:
    """Raise `ModelNotFoundError` unless `name` is what is served, or `ModelNotAllowedError`."""
    if name != served.name:
        raise ModelNotFoundError(
            f"The model {name[:200]!r} does not exist here. This server has {served.name!r}.", param="model"
        )
    identity.require_model(name)


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "serval",
        "max_model_len": model.context_length,
    }


class ListModels:
    """The list of models: the one that is served, if the key is for it."""

    def __init__(self, context: ApiContext) -> None:
        self._model = context.model
        self._body = msgspec.json.encode({"object": "list", "data": [_model_object(context.model)]})
        self._empty = msgspec.json.encode({"object": "list", "data": []})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        visible = identity_of(scope).may_use(self._model.name)
        await send_json(send, self._body if visible else self._empty)


class RetrieveModel:
    """One model by its name, which may hold slashes."""

    def __init__(self, context: ApiContext) -> None:
        self._model = context.model
        self._body = msgspec.json.encode(_model_object(context.model))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        check_model(scope["path_params"]["model_id"], self._model, identity_of(scope))
        await send_json(send, self._body)
