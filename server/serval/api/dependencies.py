"""FastAPI dependencies on the caller of a request and on the parts of the application."""

from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from serval.api.context import ApiContext
from serval.api.http import identity_of, record_of
from serval.caller.identity import Identity


class BearerKey(SecurityBase):
    """Dependency on the caller, whom `RequestEdge` has authenticated; described as a security scheme."""

    def __init__(self, description: str) -> None:
        self.model = HTTPBearer(description=description)
        self.scheme_name = "bearer"

    async def __call__(self, request: Request) -> Identity:
        return identity_of(request.scope)


async def context_of(request: Request) -> ApiContext:
    """Return the parts of the application that serves this request."""
    context: ApiContext = request.app.state.context
    return context


api_key = BearerKey(
    "An API key, or a token (JWT) of the identity provider. It may also come in the header `x-api-key`."
)
admin_key = BearerKey("A key with the scope `admin`, or SERVAL_ADMIN_KEY.")

Caller = Annotated[Identity, Depends(api_key)]
Context = Annotated[ApiContext, Depends(context_of)]


async def count_request(request: Request, response: Response, caller: Caller, context: Context) -> None:
    """Count a request that the engine does not run against the caller's requests a minute.

    Raises `RateLimitError` or `LimitsUnavailableError`.
    """
    response.headers.update(await context.gate.count(caller, record_of(request.scope)))
