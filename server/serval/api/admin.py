"""Admin API, on a port of its own: create, list, change, rotate and revoke keys; engines are beside it."""

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp

from serval.api.admin_engines import router as engines_router
from serval.api.admin_types import CreateKey, Key, KeyList, NewKey, RotateKey, UpdateKey
from serval.api.admin_usage import router as usage_router
from serval.api.application import Application, document_router
from serval.api.dependencies import admin_key
from serval.api.docs_page import docs_router
from serval.api.edge import RequestEdge
from serval.api.endpoints import ADMIN_API, ADMIN_KEY, ADMIN_KEY_ROTATE, ADMIN_KEYS, ADMIN_OPENAPI
from serval.api.health import liveness
from serval.api.json_route import JsonRoute
from serval.api.responses import WITH_KEY, errors, success
from serval.auth.authenticator import Authenticator
from serval.auth.directory import KeyDirectory
from serval.caller.identity import SCOPES
from serval.caller.limits import KeyLimits
from serval.engine.overrides import OverrideWatch
from serval.errors import (
    DeadKeyError,
    InvalidRequestError,
    KeyDatabaseError,
    NotFoundError,
    UnknownKeyError,
)
from serval.store.database import reason_of
from serval.store.key_store import KeyRecord
from serval.store.usage import UsageTable
from serval.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)
T = TypeVar("T")

_MAX_BODY_BYTES: Final = 1 << 16
_RETRY_AFTER_S: Final = 2


async def _not_stored(response: Response) -> None:
    response.headers["cache-control"] = "no-store"


async def _directory_of(request: Request) -> KeyDirectory:
    directory: KeyDirectory = request.app.state.directory
    return directory


Directory = Annotated[KeyDirectory, Depends(_directory_of)]

router = APIRouter(
    route_class=JsonRoute,
    dependencies=[Depends(admin_key), Depends(_not_stored)],
    responses=WITH_KEY,
)
_AT_ONCE: Final = RotateKey()
_NO_STORE: Final = {"cache-control": "no-store: answers may hold a key."}
_OK: Final = success(headers=_NO_STORE)
_CREATED: Final = success(201, headers=_NO_STORE)


def check_scopes(scopes: list[str]) -> None:
    """Raise `InvalidRequestError` for an unknown scope."""
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidRequestError(
                f"There is no scope {scope!r}; choose from {', '.join(SCOPES)}.", param="scopes"
            )


def check_printable(text: str, param: str) -> None:
    """Raise `InvalidRequestError` for text that could forge lines of a list or that PostgreSQL refuses."""
    for character in text:
        if not character.isprintable():
            raise InvalidRequestError(
                f"{param} holds {character!a}; it may hold printable characters only.", param=param
            )


@router.post(
    ADMIN_KEYS.path, status_code=201, summary="Create a key", responses={**_CREATED, **errors(413, 415)}
)
async def create_key(asked: CreateKey, directory: Directory) -> NewKey:
    check_scopes(asked.scopes)
    check_printable(asked.name, "name")
    for index, model in enumerate(asked.models or []):
        check_printable(model, f"models[{index}]")
    limits = KeyLimits(**asked.limits.given())
    return await _changed(
        directory,
        lambda: _new_key(
            *directory.store.create(
                name=asked.name,
                scopes=asked.scopes,
                models=asked.models,
                expires_in_s=asked.expires_in_s,
                limits=limits,
            )
        ),
    )


@router.get(ADMIN_KEYS.path, summary="List all keys", responses=_OK)
async def list_keys(directory: Directory) -> KeyList:
    _, keys = await _in_database(directory.store.load)
    return KeyList(object="list", data=[_key(record) for record in keys])


@router.patch(
    ADMIN_KEY.path, summary="Change the limits of a key", responses={**_OK, **errors(404, 413, 415)}
)
async def update_key(key_id: str, asked: UpdateKey, directory: Directory) -> Key:
    changes = asked.limits.given()
    return await _changed(directory, lambda: _key(directory.store.update_limits(key_id, changes)))


@router.delete(ADMIN_KEY.path, summary="Revoke a key", responses={**_OK, **errors(404)})
async def revoke_key(key_id: str, directory: Directory) -> Key:
    return await _changed(directory, lambda: _key(directory.store.revoke(key_id)))


@router.post(
    ADMIN_KEY_ROTATE.path,
    status_code=201,
    summary="Replace a key by a new one",
    responses={**_CREATED, **errors(404, 413, 415)},
)
async def rotate_key(key_id: str, directory: Directory, asked: RotateKey = _AT_ONCE) -> NewKey:
    return await _changed(directory, lambda: _new_key(*directory.store.rotate(key_id, grace_s=asked.grace_s)))


def _key(record: KeyRecord) -> Key:
    return Key.model_validate(record.as_object())


def _new_key(record: KeyRecord, key: str) -> NewKey:
    return NewKey.model_validate({**record.as_object(), "key": key})


async def _changed(directory: KeyDirectory, change: Callable[[], T]) -> T:
    """Change the database, then refresh this worker's keys.

    Raises `NotFoundError`, `InvalidRequestError` or `KeyDatabaseError`.
    """

    def work() -> T:
        result = change()
        try:
            directory.refresh()
        except SQLAlchemyError as error:
            # The change was made, and an answer may hold a new key; `KeyDirectory.watch` reads it soon.
            logger.warning("the key database cannot be read: %s", reason_of(error))
        return result

    try:
        return await _in_database(work)
    except UnknownKeyError as error:
        raise NotFoundError(str(error), param="key_id", code="key_not_found") from None
    except DeadKeyError as error:
        raise InvalidRequestError(f"{error}.", param="key_id", code="key_not_live") from None


async def _in_database(work: Callable[[], T]) -> T:
    """Run `work` in a thread. Raises `KeyDatabaseError` if the database fails."""
    try:
        return await asyncio.to_thread(work)
    except SQLAlchemyError as error:
        logger.warning("the key database failed: %s", reason_of(error))
        raise KeyDatabaseError(
            "The key database cannot be used at the moment, and nothing was changed. Try again shortly.",
            retry_after_s=_RETRY_AFTER_S,
        ) from None


def create_admin_app(
    directory: KeyDirectory,
    *,
    engine_orders: OverrideWatch | None = None,
    authenticator: Authenticator,
    metrics: Metrics,
    inference_document: Callable[[], dict[str, Any]],
) -> ASGIApp:
    """Create the admin API's application; its keys need the scope `admin`.

    `engine_orders` is None in front of one engine. `/docs` shows the `inference_document` too.
    """
    app = Application(
        ADMIN_API,
        title="Serval admin API",
        description="Keys of the inference API, in the database that all gateways share, and their engines.",
        max_body_bytes=_MAX_BODY_BYTES,
    )
    app.state.directory = directory
    app.state.engine_orders = engine_orders
    app.state.usage = UsageTable(directory.store.engine)
    document = document_router(ADMIN_OPENAPI.path, responses=success())
    for included in (
        router, engines_router, usage_router, liveness, document, docs_router(inference_document),
    ):  # fmt: skip
        app.include_router(included)
    return RequestEdge(app, hot={}, endpoints=ADMIN_API, authenticator=authenticator, metrics=metrics)
