"""The pages of teams: list and create them; change, look at the budgets of, and delete one."""

import logging

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from serval.api.admin import list_keys
from serval.api.admin_teams import create_team, delete_team, list_teams, update_team
from serval.api.admin_types import CreateTeam, Team, UpdateTeam
from serval.caller.identity import TEAM
from serval.caller.limits import LIMIT_NAMES
from serval.console import endpoints
from serval.console.budgets import budget_fields, budget_use, given_budgets
from serval.console.forms import Form
from serval.console.pages import page
from serval.console.parts import Console
from serval.console.sessions import Session
from serval.console.validated import given_limits, validated
from serval.errors import ApiError, NotFoundError

logger = logging.getLogger(__name__)


async def teams_page(
    console: Console,
    request: Request,
    session: Session,
    *,
    error: ApiError | None = None,
    given: Form | None = None,
) -> Response:
    """Return the list, with the use of budgets, and the form for a new team."""
    teams = (await list_teams(console.directory)).data
    keys = (await list_keys(console.directory)).data
    return page(
        request,
        "teams.html",
        session=session,
        sessions=console.sessions,
        teams=teams,
        keys_of={team.id: [key for key in keys if key.team == team.id] for team in teams},
        use=await budget_use(console, {f"{TEAM}{team.id}": team.budgets for team in teams}),
        limit_names=LIMIT_NAMES,
        limits={name: "" if given is None else given.text(name) for name in LIMIT_NAMES},
        budgets=budget_fields([], given),
        given=given or Form({}),
        error=error,
    )


async def create(console: Console, request: Request, session: Session, form: Form) -> Response:
    """Create a team."""
    try:
        asked = validated(
            CreateTeam, name=form.text("name"), limits=given_limits(form), budgets=given_budgets(form)
        )
        team = await create_team(asked, console.directory)
    except ApiError as error:
        return await teams_page(console, request, session, error=error, given=form)
    _log(session, "created", team.id)
    return RedirectResponse(endpoints.TEAMS.path, status_code=303)


async def team_page(
    console: Console, request: Request, session: Session, *, error: ApiError | None = None
) -> Response:
    """Return the page of one team. Raises `NotFoundError`."""
    team = await _found(console, request.path_params["team_id"])
    return page(
        request,
        "team.html",
        session=session,
        sessions=console.sessions,
        team=team,
        limit_names=LIMIT_NAMES,
        limits=team.limits.model_dump(),
        budgets=budget_fields(team.budgets),
        error=error,
    )


async def change(console: Console, request: Request, session: Session, form: Form) -> Response:
    """Change name, limits and budgets of a team."""
    team_id = request.path_params["team_id"]
    try:
        asked = validated(
            UpdateTeam, name=form.text("name"), limits=given_limits(form), budgets=given_budgets(form)
        )
        await update_team(team_id, asked, console.directory)
    except NotFoundError:
        raise
    except ApiError as error:
        return await team_page(console, request, session, error=error)
    _log(session, "changed", team_id)
    return RedirectResponse(endpoints.TEAMS.path, status_code=303)


async def delete(console: Console, request: Request, session: Session, form: Form) -> Response:
    """Delete a team without live keys."""
    team_id = request.path_params["team_id"]
    try:
        await delete_team(team_id, console.directory)
    except NotFoundError:
        raise
    except ApiError as error:
        return await team_page(console, request, session, error=error)
    _log(session, "deleted", team_id)
    return RedirectResponse(endpoints.TEAMS.path, status_code=303)


async def _found(console: Console, team_id: str) -> Team:
    for team in (await list_teams(console.directory)).data:
        if team.id == team_id:
            return team
    raise NotFoundError(f"There is no team {team_id[:64]!r}.", code="team_not_found")


def _log(session: Session, what: str, team_id: str) -> None:
    fields = {"who": session.who, "change": what, "changed_team": team_id}
    logger.info("team changed in the console", extra={"fields": fields})
