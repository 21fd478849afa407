"""`/health`: whether the coordinator and its database answer."""

from __future__ import annotations

from aiohttp import web
from sqlalchemy.exc import SQLAlchemyError

from coordinator.api.shapes import HealthReply
from coordinator.errors import CoordinatorError
from coordinator.state import State


async def health(state: State, request: web.Request) -> HealthReply:
    """Raises CoordinatorError, which is answered with 500, when the database does not answer."""
    try:
        await state.ping_database()
    except SQLAlchemyError as error:
        raise CoordinatorError("the database does not answer; see the coordinator's log") from error
    return HealthReply(database_connectivity=True)
