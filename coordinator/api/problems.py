"""Refusals as RFC 7807 documents, and which status each kind of error has (coordinator-behaviour §3.1)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
from aiohttp import web

from coordinator.api.shapes import Problem, ProblemDetail
from coordinator.errors import Conflict, CoordinatorError, Invalid, NotFound, Unavailable

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STATUS: tuple[tuple[type[CoordinatorError], HTTPStatus], ...] = (
    (NotFound, HTTPStatus.NOT_FOUND),
    (Invalid, HTTPStatus.BAD_REQUEST),
    (Conflict, HTTPStatus.CONFLICT),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)
_GRPC_CODES = {  # what Headscale up to 0.29 gave as `code`
    HTTPStatus.BAD_REQUEST: 3,
    HTTPStatus.NOT_FOUND: 5,
    HTTPStatus.CONFLICT: 6,
    HTTPStatus.METHOD_NOT_ALLOWED: 12,
    HTTPStatus.SERVICE_UNAVAILABLE: 14,
}
_GRPC_UNKNOWN = 2


class BadRequest(Invalid):
    """The request itself is wrong. `location` is the field or parameter at fault, such as `body.name`."""

    def __init__(self, message: str, location: str = "") -> None:
        super().__init__(message)
        self.location = location


def status_of(error: CoordinatorError) -> HTTPStatus:
    """The status that tells this kind of refusal."""
    return next((s for kind, s in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(status: HTTPStatus, detail: str, message: str, location: str = "") -> web.Response:
    """The refusal as a response. `detail` is what was being done, `message` why it was not."""
    document = Problem(
        title=status.phrase,
        status=status.value,
        detail=detail,
        errors=[ProblemDetail(message, location)],
        code=_GRPC_CODES.get(status, _GRPC_UNKNOWN),
        message=message,
    )
    return web.Response(
        status=status, body=msgspec.json.encode(document), content_type="application/problem+json"
    )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What aiohttp refuses by itself (no such path, wrong method, body too large), in the API's own form."""
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        status = HTTPStatus(refusal.status)
        response = problem(status, f"{request.method} {request.path}", _reason(request, refusal))
        if "Allow" in refusal.headers:
            response.headers["Allow"] = refusal.headers["Allow"]
        return response


def _reason(request: web.Request, refusal: web.HTTPException) -> str:
    match refusal.status:
        case HTTPStatus.NOT_FOUND:
            return f"there is no {request.path} in this API"
        case HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = ", ".join(refusal.headers.get("Allow", "another method").split(","))
            return f"{request.path} takes {allowed}, not {request.method}"
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return "the body is too large"
        case _:
            return refusal.reason
