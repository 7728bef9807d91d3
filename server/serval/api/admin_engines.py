"""Engines in the admin API: list, drain and weigh them, for all gateways that share the key database."""

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated, Final, TypeVar

from fastapi import APIRouter, Depends, Request
from sqlalchemy.exc import SQLAlchemyError

from serval.api.admin_types import DrainEngine, EngineEntry, EngineList, WeighEngine
from serval.api.dependencies import admin_key
from serval.api.endpoints import ADMIN_ENGINE_DRAIN, ADMIN_ENGINE_UNDRAIN, ADMIN_ENGINE_WEIGHT, ADMIN_ENGINES
from serval.api.http import identity_of
from serval.api.json_route import JsonRoute
from serval.api.responses import WITH_KEY, errors, success
from serval.engine.overrides import OverrideWatch
from serval.engine.place import FleetEngine
from serval.engine.weights import check_shares, parse_weight
from serval.errors import InvalidRequestError, KeyDatabaseError, NotFoundError
from serval.store.database import reason_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

LISTED: Final = "listed"
_RETRY_AFTER_S: Final = 2


async def _orders_of(request: Request) -> OverrideWatch:
    orders: OverrideWatch | None = request.app.state.engine_orders
    if orders is None:
        raise InvalidRequestError(
            "This gateway has one engine, which it cannot do without. Engines are managed where"
            " SERVAL_ENGINE_URL names several.",
            code="single_engine",
        )
    return orders


Orders = Annotated[OverrideWatch, Depends(_orders_of)]

router = APIRouter(route_class=JsonRoute, dependencies=[Depends(admin_key)], responses=WITH_KEY)
_AT_LEAST_ONE: Final = DrainEngine()


@router.get(ADMIN_ENGINES.path, summary="List the engines", responses=success())
async def list_engines(orders: Orders) -> EngineList:
    return EngineList(object="list", data=_entries(orders))


@router.post(
    ADMIN_ENGINE_DRAIN.path,
    summary="Send an engine no more requests; those it has may end",
    responses={**success(), **errors(404, 413, 415)},
)
async def drain_engine(
    name: str, request: Request, orders: Orders, asked: DrainEngine = _AT_LEAST_ONE
) -> EngineEntry:
    engine = _engine(orders, name)
    others = [other for other in orders.fleet.engines() if other is not engine and other.is_ready]
    if not (others or asked.force):
        raise InvalidRequestError(
            f"No other engine is ready: without {name} all requests would be refused. Wait for another one,"
            " or force it.",
            param="force",
            code="last_engine",
        )
    url = engine.found.url
    await _ordered(request, orders, name, "drain", lambda: orders.table.set_drained(url, drained=True))
    return _entry(orders, name)


@router.post(
    ADMIN_ENGINE_UNDRAIN.path,
    summary="Send an engine requests again",
    responses={**success(), **errors(404)},
)
async def undrain_engine(name: str, request: Request, orders: Orders) -> EngineEntry:
    url = _engine(orders, name).found.url
    await _ordered(request, orders, name, "undrain", lambda: orders.table.set_drained(url, drained=False))
    return _entry(orders, name)


@router.post(
    ADMIN_ENGINE_WEIGHT.path,
    summary="Give an engine its share of the conversations",
    responses={**success(), **errors(404, 413, 415)},
)
async def weigh_engine(name: str, asked: WeighEngine, request: Request, orders: Orders) -> EngineEntry:
    engine = _engine(orders, name)
    text = str(asked.weight)
    if text == LISTED:
        stored, weight = None, engine.found.options.weight
    else:
        weight = _checked(lambda: parse_weight(text))
        stored = str(weight)
    others = [other.weight for other in orders.fleet.engines() if other is not engine]
    _checked(lambda: check_shares([*others, weight]))
    url = engine.found.url
    await _ordered(
        request, orders, name, f"weight {stored or LISTED}", lambda: orders.table.set_weight(url, stored)
    )
    return _entry(orders, name)


def _checked(check: Callable[[], T]) -> T:
    try:
        return check()
    except ValueError as error:
        text = str(error)
        raise InvalidRequestError(f"{text[:1].upper()}{text[1:]}.", param="weight") from None


def _engine(orders: OverrideWatch, name: str) -> FleetEngine:
    """Return the engine. Raises `NotFoundError`, which names those there are."""
    engines = {engine.found.name: engine for engine in orders.fleet.engines()}
    if name not in engines:
        raise NotFoundError(
            f"No engine is named {name[:200]!r}; there are {', '.join(sorted(engines)) or 'none'}.",
            param="name",
            code="engine_not_found",
        )
    return engines[name]


async def _ordered(
    request: Request, orders: OverrideWatch, name: str, order: str, change: Callable[[], None]
) -> None:
    """Store an order and put it in force here; other processes read it soon. Raises `KeyDatabaseError`."""
    try:
        await asyncio.to_thread(change)
        await orders.refresh()
    except SQLAlchemyError as error:
        logger.warning("the key database failed: %s", reason_of(error))
        raise KeyDatabaseError(
            "The key database cannot be used at the moment. Look at the engines again shortly.",
            retry_after_s=_RETRY_AFTER_S,
        ) from None
    by = identity_of(request.scope).key_id
    logger.info("engine ordered", extra={"fields": {"engine": name, "order": order, "key_id": by}})


def _entry(orders: OverrideWatch, name: str) -> EngineEntry:
    return next(entry for entry in _entries(orders) if entry.name == name)


def _entries(orders: OverrideWatch) -> list[EngineEntry]:
    engines = orders.fleet.engines()
    weights = {engine.found.url: engine.relative_weight * len(engine.places) for engine in engines}
    total = sum(weights[engine.found.url] for engine in engines if engine.is_ready)
    return [
        EngineEntry(
            name=engine.found.name,
            url=engine.found.url,
            version=engine.found.options.version or None,
            state=engine.told_state,
            drained=engine.override.drained,
            weight=str(engine.weight),
            listed_weight=str(engine.found.options.weight),
            share=weights[engine.found.url] / total if engine.is_ready and total else 0.0,
            running=sum(place.load.num_running_reqs for place in engine.places),
            waiting=sum(place.load.num_waiting_reqs for place in engine.places),
        )
        for engine in engines
    ]
