"""`/admin/teams`: teams of keys, with limits and budgets of their own."""

from fastapi import APIRouter, Depends

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
from serval.api.admin_types import CreateTeam, Team, TeamList, UpdateTeam
from serval.api.dependencies import admin_key
from serval.api.endpoints import ADMIN_TEAM, ADMIN_TEAMS
from serval.api.json_route import JsonRoute
from serval.api.responses import WITH_KEY, errors
from serval.caller.limits import KeyLimits
from serval.store.teams import TeamRecord

router = APIRouter(
    route_class=JsonRoute,
    dependencies=[Depends(admin_key), Depends(not_stored)],
    responses=WITH_KEY,
)


@router.post(
    ADMIN_TEAMS.path, status_code=201, summary="Create a team", responses={**CREATED, **errors(413, 415)}
)
async def create_team(asked: CreateTeam, directory: Directory) -> Team:
    check_printable(asked.name, "name")
    limits, budgets = KeyLimits(**asked.limits.given()), given_budgets(asked.budgets)
    return await changed(
        directory,
        lambda: _team(directory.teams.create(name=asked.name, limits=limits, budgets=budgets)),
    )


@router.get(ADMIN_TEAMS.path, summary="List all teams", responses=OK)
async def list_teams(directory: Directory) -> TeamList:
    teams = await in_database(directory.teams.load)
    return TeamList(object="list", data=[_team(record) for record in teams])


@router.patch(ADMIN_TEAM.path, summary="Change a team", responses={**OK, **errors(404, 413, 415)})
async def update_team(team_id: str, asked: UpdateTeam, directory: Directory) -> Team:
    if asked.name is not None:
        check_printable(asked.name, "name")
    budgets = None if asked.budgets is None else given_budgets(asked.budgets)
    return await changed(
        directory,
        lambda: _team(
            directory.teams.update(
                team_id,
                name=asked.name,
                limits=asked.limits.given(),
                budgets=None if budgets is None else lambda _: budgets,
            )
        ),
    )


@router.delete(
    ADMIN_TEAM.path, summary="Delete a team that has no live keys", responses={**OK, **errors(404)}
)
async def delete_team(team_id: str, directory: Directory) -> Team:
    return await changed(directory, lambda: _team(directory.teams.delete(team_id)))


def _team(record: TeamRecord) -> Team:
    return Team.model_validate(record.as_object())
