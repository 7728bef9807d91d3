"""`GET` and `DELETE /v1/responses/{id}`, and `GET /v1/responses/{id}/input_items`."""

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from fastapi import APIRouter, Depends, Query
from msgspec import Struct
from pydantic import BaseModel, Field
from starlette.responses import Response

from serval.api.context import ApiContext
from serval.api.dependencies import Caller, Context, count_request
from serval.api.endpoints import RESPONSE, RESPONSE_INPUT
from serval.api.responses import LIMIT_HEADERS, WITH_KEY, errors, success
from serval.caller.identity import Identity
from serval.errors import InvalidRequestError, ResponseNotFoundError
from serval.wire.responses.described import DeletedResponse, InputItemList, ResponseObject

if TYPE_CHECKING:
    from serval.store.responses import StoredResponse

_OK: Final = success(headers=LIMIT_HEADERS)
_items_decoder: "msgspec.json.Decoder[list[msgspec.Raw]]" = msgspec.json.Decoder(list[msgspec.Raw])


class _Identified(Struct):
    # Any value: decoding the items does not read their ids.
    id: Any = None


_id_decoder: "msgspec.json.Decoder[_Identified]" = msgspec.json.Decoder(_Identified)

router = APIRouter(dependencies=[Depends(count_request)], responses={**_OK, **WITH_KEY, **errors(404, 429)})


class Page(BaseModel):
    """Some of the items. `after`: id of the item before the first one."""

    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None


@router.get(
    RESPONSE.path,
    summary="Get a response that is kept",
    response_class=Response,
    response_model=ResponseObject,
)
async def retrieve_response(response_id: str, caller: Caller, context: Context) -> Response:
    """Return the response as it was answered."""
    stored = await _find(response_id, caller, context)
    return Response(stored.body, media_type="application/json")


@router.delete(RESPONSE.path, summary="Delete a response that is kept")
async def delete_response(response_id: str, caller: Caller, context: Context) -> DeletedResponse:
    """Delete the response; conversations that continue it cannot go on."""
    kept = context.kept_responses
    if kept is None or not await kept.remove(caller.subject, response_id):
        raise _not_found(response_id, context)
    return DeletedResponse(id=response_id, object="response", deleted=True)


@router.get(
    RESPONSE_INPUT.path,
    summary="List the items of a kept response's request",
    response_class=Response,
    response_model=InputItemList,
)
async def list_input_items(
    response_id: str, caller: Caller, context: Context, page: Annotated[Page, Query()]
) -> Response:
    """Return the items that the request itself brought, as they were sent."""
    stored = await _find(response_id, caller, context)
    items = list(enumerate(_items_decoder.decode(stored.input)))
    if page.order == "desc":
        items.reverse()
    ids = [_item_id(response_id, index, item) for index, item in items]
    if page.after is not None and page.after not in ids:
        raise InvalidRequestError(
            f"after is {page.after[:100]!r}, which is none of the items.", param="after"
        )
    start = 0 if page.after is None else ids.index(page.after) + 1
    shown = slice(start, start + page.limit)
    answer = {
        "object": "list",
        "data": [_with_id(item, name) for (_, item), name in zip(items[shown], ids[shown], strict=True)],
        "first_id": next(iter(ids[shown]), None),
        "last_id": next(reversed(ids[shown]), None),
        "has_more": shown.stop < len(items),
    }
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _item_id(response_id: str, index: int, item: msgspec.Raw) -> str:
    """Return the item's own id, or one made of its place."""
    own = _id_decoder.decode(item).id
    return own if isinstance(own, str) else f"item_{response_id.removeprefix('resp_')}{index:04x}"


def _with_id(item: msgspec.Raw, name: str) -> msgspec.Raw:
    """Return the item with an id. The rest of it is not decoded: its fields may be of any kind."""
    if isinstance(_id_decoder.decode(item).id, str):
        return item
    # Behind an id that is none, because the last of two fields of one name counts.
    return msgspec.Raw(bytes(item).rstrip()[:-1] + b',"id":' + msgspec.json.encode(name) + b"}")


async def _find(response_id: str, caller: Identity, context: ApiContext) -> "StoredResponse":
    """Return the caller's response. Raises `ResponseNotFoundError`."""
    kept = context.kept_responses
    found = [] if kept is None else await kept.load(caller.subject, [response_id])
    if not found:
        raise _not_found(response_id, context)
    return found[0]


def _not_found(response_id: str, context: ApiContext) -> ResponseNotFoundError:
    reason = (
        "This server keeps no responses."
        if context.kept_responses is None
        else ("It was not kept, has expired or was deleted, or is not this key's.")
    )
    return ResponseNotFoundError(
        f"Response with id {response_id[:100]!r} not found. {reason}", param="response_id"
    )
