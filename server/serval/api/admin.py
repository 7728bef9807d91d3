"""Admin API, on a port of its own: create, list, change, rotate and revoke keys; the rest is beside it."""

from collections.abc import Callable
from typing import Any, Final

from fastapi import APIRouter, Depends
from starlette.types import ASGIApp

from serval.api.admin_changes import (
    CREATED,
    OK,
    Directory,
    changed,
    check_printable,
    given_budgets,
    in_database,
    not_stored,
)
from serval.api.admin_engines import router as engines_router
from serval.api.admin_teams import router as teams_router
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
from serval.errors import InvalidRequestError
from serval.store.key_store import KEEP, KeyRecord
from serval.store.usage import UsageTable
from serval.telemetry.metrics import Metrics

_MAX_BODY_BYTES: Final = 1 << 16

router = APIRouter(
    route_class=JsonRoute,
    dependencies=[Depends(admin_key), Depends(not_stored)],
    responses=WITH_KEY,
)
_AT_ONCE: Final = RotateKey()


def check_scopes(scopes: list[str]) -> None:
    """Raise `InvalidRequestError` for an unknown scope."""
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidRequestError(
                f"There is no scope {scope!r}; choose from {', '.join(SCOPES)}.", param="scopes"
            )


@router.post(
    ADMIN_KEYS.path, status_code=201, summary="Create a key", responses={**CREATED, **errors(404, 413, 415)}
)
async def create_key(asked: CreateKey, directory: Directory) -> NewKey:
    check_scopes(asked.scopes)
    check_printable(asked.name, "name")
    for index, model in enumerate(asked.models or []):
        check_printable(model, f"models[{index}]")
    limits, budgets = KeyLimits(**asked.limits.given()), given_budgets(asked.budgets)
    return await changed(
        directory,
        lambda: _new_key(
            *directory.store.create(
                name=asked.name,
                scopes=asked.scopes,
                models=asked.models,
                expires_in_s=asked.expires_in_s,
                limits=limits,
                team=asked.team,
                budgets=budgets,
            )
        ),
    )


@router.get(ADMIN_KEYS.path, summary="List all keys", responses=OK)
async def list_keys(directory: Directory) -> KeyList:
    _, keys = await in_database(directory.store.load)
    return KeyList(object="list", data=[_key(record) for record in keys])


@router.patch(
    ADMIN_KEY.path,
    summary="Change the limits, the budgets and the team of a key",
    responses={**OK, **errors(404, 413, 415)},
)
async def update_key(key_id: str, asked: UpdateKey, directory: Directory) -> Key:
    budgets = given_budgets(asked.budgets)
    return await changed(
        directory,
        lambda: _key(
            directory.store.update(
                key_id,
                limits=asked.limits.given(),
                budgets=(lambda _: budgets) if "budgets" in asked.model_fields_set else None,
                team=asked.team if "team" in asked.model_fields_set else KEEP,
            )
        ),
    )


@router.delete(ADMIN_KEY.path, summary="Revoke a key", responses={**OK, **errors(404)})
async def revoke_key(key_id: str, directory: Directory) -> Key:
    return await changed(directory, lambda: _key(directory.store.revoke(key_id)))


@router.post(
    ADMIN_KEY_ROTATE.path,
    status_code=201,
    summary="Replace a key by a new one",
    responses={**CREATED, **errors(404, 413, 415)},
)
async def rotate_key(key_id: str, directory: Directory, asked: RotateKey = _AT_ONCE) -> NewKey:
    return await changed(directory, lambda: _new_key(*directory.store.rotate(key_id, grace_s=asked.grace_s)))


def _key(record: KeyRecord) -> Key:
    return Key.model_validate(record.as_object())


def _new_key(record: KeyRecord, key: str) -> NewKey:
    return NewKey.model_validate({**record.as_object(), "key": key})


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
        description="Keys, teams and usage, in the database that all gateways share, and engines.",
        max_body_bytes=_MAX_BODY_BYTES,
    )
    app.state.directory = directory
    app.state.engine_orders = engine_orders
    app.state.usage = UsageTable(directory.store.engine)
    document = document_router(ADMIN_OPENAPI.path, responses=success())
    for included in (
        router, teams_router, engines_router, usage_router, liveness, document,
        docs_router(inference_document),
    ):  # fmt: skip
        app.include_router(included)
    return RequestEdge(app, hot={}, endpoints=ADMIN_API, authenticator=authenticator, metrics=metrics)
