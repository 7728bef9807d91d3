"""The pages of keys: list and create them; change limits, rotate and revoke one."""

import logging
import time
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from serval.api.admin import create_key, list_keys, revoke_key, rotate_key, update_key
from serval.api.admin_teams import list_teams
from serval.api.admin_types import CreateKey, Key, NewKey, RotateKey, UpdateKey
from serval.caller.identity import INFERENCE, SCOPES
from serval.caller.limits import LIMIT_NAMES
from serval.console import endpoints
from serval.console.budgets import budget_fields, budget_use, given_budgets
from serval.console.forms import Form
from serval.console.pages import page
from serval.console.parts import Console
from serval.console.sessions import Session
from serval.console.validated import count_of, given_limits, validated
from serval.errors import ApiError, NotFoundError

logger = logging.getLogger(__name__)

_DAY_S: Final = 86_400
_HOUR_S: Final = 3600


async def keys_page(
    console: Console,
    request: Request,
    session: Session,
    *,
    made: NewKey | None = None,
    error: ApiError | None = None,
    given: Form | None = None,
) -> Response:
    """Return the list, the form for a new key, and the key that was `made`, which is shown this once."""
    keys = (await list_keys(console.directory)).data
    teams = (await list_teams(console.directory)).data
    live = [key for key in keys if _state(key) == "live"]
    return page(
        request,
        "keys.html",
        session=session,
        sessions=console.sessions,
        keys=live if "all" not in request.query_params else keys,
        hidden=0 if "all" in request.query_params else len(keys) - len(live),
        state=_state,
        limits_text=_limits_text,
        teams=teams,
        team_names={team.id: team.name for team in teams},
        limit_names=LIMIT_NAMES,
        limits={name: "" if given is None else given.text(name) for name in LIMIT_NAMES},
        budgets=budget_fields([], given),
        scopes=SCOPES,
        chosen_scopes=[INFERENCE] if given is None else given.all("scopes"),
        given=given or Form({}),
        made=made,
        error=error,
    )


async def create(console: Console, request: Request, session: Session, form: Form) -> Response:
    """Create a key and show it."""
    try:
        asked = validated(
            CreateKey,
            name=form.text("name"),
            scopes=form.all("scopes"),
            models=form.text("models").split() or None,
            expires_in_s=count_of(form, "days", times=_DAY_S),
            limits=given_limits(form),
            team=form.text("team") or None,
            budgets=given_budgets(form),
        )
        made = await create_key(asked, console.directory)
    except ApiError as error:
        return await keys_page(console, request, session, error=error, given=form)
    _log(session, "created", made.id)
    return await keys_page(console, request, session, made=made)


async def key_page(
    console: Console, request: Request, session: Session, *, error: ApiError | None = None
) -> Response:
    """Return the page of one key. Raises `NotFoundError`."""
    key = await _found(console, request.path_params["key_id"])
    return page(
        request,
        "key.html",
        session=session,
        sessions=console.sessions,
        key=key,
        state=_state(key),
        limits=key.limits.model_dump(),
        limit_names=LIMIT_NAMES,
        teams=(await list_teams(console.directory)).data,
        budgets=budget_fields(key.budgets),
        use=await budget_use(console, {key.id: key.budgets}),
        error=error,
    )


async def change_limits(console: Console, request: Request, session: Session, form: Form) -> Response:
    """Change limits, team and budgets of a key."""
    key_id = request.path_params["key_id"]
    try:
        asked = validated(
            UpdateKey,
            limits=given_limits(form),
            team=form.text("team") or None,
            budgets=given_budgets(form),
        )
        await update_key(key_id, asked, console.directory)
    except NotFoundError:
        raise
    except ApiError as error:
        return await key_page(console, request, session, error=error)
    _log(session, "limits changed", key_id)
    return RedirectResponse(request.url.path.removesuffix("/limits"), status_code=303)


async def rotate(console: Console, request: Request, session: Session, form: Form) -> Response:
    """Replace a key by a new one and show that."""
    key_id = request.path_params["key_id"]
    try:
        asked = validated(RotateKey, grace_s=count_of(form, "hours", times=_HOUR_S) or 0)
        made = await rotate_key(key_id, console.directory, asked)
    except NotFoundError:
        raise
    except ApiError as error:
        return await key_page(console, request, session, error=error)
    _log(session, "rotated", key_id)
    return await keys_page(console, request, session, made=made)


async def revoke(console: Console, request: Request, session: Session, form: Form) -> Response:
    """Revoke a key."""
    key_id = request.path_params["key_id"]
    await revoke_key(key_id, console.directory)
    _log(session, "revoked", key_id)
    return RedirectResponse(endpoints.KEYS.path, status_code=303)


async def _found(console: Console, key_id: str) -> Key:
    for key in (await list_keys(console.directory)).data:
        if key.id == key_id:
            return key
    raise NotFoundError(f"There is no key {key_id[:64]!r}.", code="key_not_found")


def _state(key: Key) -> str:
    now = time.time()
    if key.revoked_at is not None:
        return "revoked" if key.revoked_at <= now else "live"
    return "expired" if key.expires_at is not None and key.expires_at <= now else "live"


def _limits_text(key: Key) -> str:
    own = {name: value for name, value in key.limits.model_dump().items() if value != "default"}
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in own.items()) or "default"


def _log(session: Session, what: str, key_id: str) -> None:
    fields = {"who": session.who, "change": what, "changed_key": key_id}
    logger.info("key changed in the console", extra={"fields": fields})
