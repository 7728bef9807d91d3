"""Shared parts of the admin API's routes: reading and changing the key database, and checks of bodies."""

import logging
from collections.abc import Callable, Sequence
from typing import Annotated, Final, TypeVar

from fastapi import Depends, Request, Response
from sqlalchemy.exc import SQLAlchemyError

from serval.api.admin_types import GivenBudget
from serval.api.key_database import in_key_database
from serval.api.responses import success
from serval.auth.directory import KeyDirectory
from serval.caller.budgets import Budgets, budgets_of
from serval.errors import (
    DeadKeyError,
    InvalidRequestError,
    NotFoundError,
    TeamHasKeysError,
    UnknownKeyError,
    UnknownTeamError,
)
from serval.store.database import reason_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

NO_STORE: Final = {"cache-control": "no-store: answers may hold a key."}
OK: Final = success(headers=NO_STORE)
CREATED: Final = success(201, headers=NO_STORE)


async def not_stored(response: Response) -> None:
    """Keep the answer out of caches."""
    response.headers["cache-control"] = "no-store"


async def _directory_of(request: Request) -> KeyDirectory:
    directory: KeyDirectory = request.app.state.directory
    return directory


Directory = Annotated[KeyDirectory, Depends(_directory_of)]


def check_printable(text: str, param: str) -> None:
    """Raise `InvalidRequestError` for text that could forge lines of a list or that PostgreSQL refuses."""
    for character in text:
        if not character.isprintable():
            raise InvalidRequestError(
                f"{param} holds {character!a}; it may hold printable characters only.", param=param
            )


def given_budgets(given: Sequence[GivenBudget]) -> Budgets:
    """The budgets of a body. Raises `InvalidRequestError`."""
    try:
        return budgets_of([each.budget() for each in given])
    except ValueError as error:
        raise InvalidRequestError(f"budgets: {error}.", param="budgets") from None


async def changed(directory: KeyDirectory, change: Callable[[], T]) -> T:
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
        return await in_database(work)
    except UnknownKeyError as error:
        raise NotFoundError(str(error), param="key_id", code="key_not_found") from None
    except UnknownTeamError as error:
        raise NotFoundError(str(error), param="team", code="team_not_found") from None
    except DeadKeyError as error:
        raise InvalidRequestError(f"{error}.", param="key_id", code="key_not_live") from None
    except TeamHasKeysError as error:
        raise InvalidRequestError(f"{error}.", param="team_id", code="team_has_keys") from None


async def in_database(work: Callable[[], T]) -> T:
    """Run `work` in a thread. Raises `KeyDatabaseError` if the database fails."""
    problem = "The key database cannot be used at the moment, and nothing was changed."
    return await in_key_database(work, problem=problem, level=logging.WARNING)
