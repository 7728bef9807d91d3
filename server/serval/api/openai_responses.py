"""`POST /v1/responses`: OpenAI's Responses API in front of the steps that all APIs of conversations share."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct
from starlette.types import Scope

from serval.api.context import ApiContext
from serval.api.http import header, identity_of, record_of
from serval.api.models import check_model
from serval.api.prompt import declaration_of
from serval.api.responses_form import ResponsesForm
from serval.api.sealing import asks_for_seal, continued, owner_of, seal
from serval.api.shortening import Shorten, truncated
from serval.api.turn import InTurn, Keep, Turn
from serval.caller.priority import HEADER, priority_of, tier_of
from serval.errors import ContextLengthError, InvalidRequestError
from serval.scheduling.body_budget import HeldBody
from serval.store.compression import compressed
from serval.wire.body_size import check_texts_size
from serval.wire.chat_response import AnsweredChoice, Usage
from serval.wire.responses.decode import (
    FIELDS,
    DecodedResponses,
    add_messages,
    decode_responses_request,
    known_tier,
)
from serval.wire.responses.items import PlacedItem, decode_items
from serval.wire.responses.request import ResponsesRequest
from serval.wire.responses.response import repeated_fields, status_of

if TYPE_CHECKING:
    from serval.api.kept_responses import KeptResponses
    from serval.store.responses import StoredResponse

_PREVIOUS: Final = "previous_response_id"
_items_decoder: "msgspec.json.Decoder[list[msgspec.Raw]]" = msgspec.json.Decoder(list[msgspec.Raw])


class _StoredBody(Struct):
    """The part of a stored response that the conversation continues with."""

    output: list[msgspec.Raw]


_body_decoder: "msgspec.json.Decoder[_StoredBody]" = msgspec.json.Decoder(_StoredBody)


def decode_responses(context: ApiContext, scope: Scope, body: bytes) -> Turn:
    """Decode and check the body of a request. Raises `ApiError`."""
    record, identity, settings = record_of(scope), identity_of(scope), context.settings
    decoded = decode_responses_request(body, strict=settings.strict_fields)
    request, kept = decoded.request, context.kept_responses
    check_model(request.model, context.model, identity)
    record.model = context.model.name
    record.stream = bool(request.stream)
    priority = priority_of(identity, header(scope, HEADER), known_tier(request))
    # Ids of the responses that this one continues.
    before: list[str] = []
    complete = keep = seal_answer = before_answer = None
    stored_bytes = 0
    if request.previous_response_id is None:
        before_answer = continued(context, decoded, owner_of(scope))
        _add_messages(context, decoded)
    else:
        if kept is None:
            raise _not_found(request.previous_response_id, "This server keeps no responses.")
        complete = partial(_continue, context, kept, decoded, subject=identity.subject, before=before)
    stored = kept is not None and request.store is not False
    form = ResponsesForm(
        repeated_fields(request, service_tier=tier_of(priority)),
        decoded.tools.called,
        stored=stored,
    )
    # A response that is kept can be continued by its id.
    if context.sealer is not None and before_answer is not None and not stored and asks_for_seal(decoded):
        seal_answer = partial(
            seal, sealer=context.sealer, subject=owner_of(scope), before=before_answer, form=form
        )
    if kept is not None and stored:
        # Compressed at once: it is held until the answer is there.
        items, size = _compressed_input(request.input)
        stored_bytes = len(items)
        keep = _keeper(kept, form, items, size, subject=identity.subject, before=before)
    return Turn(
        request=decoded.chat,
        priority=priority,
        form=form,
        id_prefix="resp_",
        deferred_tools=decoded.tools.deferred,
        cut_to_room=True,
        fields=FIELDS,
        complete=complete,
        beginning=None if before_answer is None else before_answer.ids,
        shorten=_shorten(request),
        seal=seal_answer,
        keep=keep,
        stored_bytes=stored_bytes,
    )


def _shorten(request: ResponsesRequest) -> Shorten | None:
    if request.truncation != "auto":
        return None
    return partial(truncated, answer_tokens=request.max_output_tokens)


def _add_messages(context: ApiContext, decoded: DecodedResponses, before: Sequence[PlacedItem] = ()) -> None:
    add_messages(
        decoded,
        before,
        non_text_parts=context.settings.non_text_parts,
        declare=partial(declaration_of, context.chat),
    )


async def _continue(
    context: ApiContext,
    kept: "KeptResponses",
    decoded: DecodedResponses,
    held: HeldBody,
    in_turn: InTurn,
    *,
    subject: str,
    before: list[str],
) -> None:
    """Add the conversation that the request continues. See `Complete`.

    `before` receives the ids of its responses. Raises `InvalidRequestError` if a part of it cannot be found.
    """
    previous = decoded.request.previous_response_id or ""
    chain = await kept.chain(subject, previous)
    if chain is None:
        raise _not_found(previous, "It was not kept, has expired or was deleted, or is not this key's.")
    size, most = sum(link.whole_bytes for link in chain), context.settings.max_body_bytes
    if size > most:
        raise ContextLengthError(
            f"The conversation that {_PREVIOUS} continues has {size} bytes, more than the {most} that this"
            " server reads in one request. Begin a new one with a summary.",
            param=_PREVIOUS,
        )
    held.add(size)
    before += [link.id for link in chain]
    stored = await kept.load(subject, before)
    if len(stored) < len(before):
        raise _not_found(previous, "A part of its conversation was deleted just now.")
    await in_turn(held.size, partial(_add_history, context, decoded, stored))
    # The turn holds them until the answer has ended.
    decoded.request.input = decoded.request.tools = None
    decoded.items.clear()


def _add_history(context: ApiContext, decoded: DecodedResponses, stored: Sequence["StoredResponse"]) -> None:
    texts = [text for response in stored for text in (response.input, response.body)]
    check_texts_size(texts, param=_PREVIOUS)
    items: list[PlacedItem] = []
    for response in stored:
        items += decode_items(_items_decoder.decode(response.input), f"{response.id}.input")
        items += decode_items(_body_decoder.decode(response.body).output, f"{response.id}.output")
    _add_messages(context, decoded, items)


def _not_found(response_id: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"Previous response with id {response_id[:100]!r} not found. {reason} Send the whole conversation as"
        " input instead.",
        param=_PREVIOUS,
        code="previous_response_not_found",
    )


def _keeper(
    kept: "KeptResponses",
    form: ResponsesForm,
    input_items: bytes,
    input_bytes: int,
    *,
    subject: str,
    before: Sequence[str],
) -> Keep:
    """Return what keeps the answer to a request. `input_items` are compressed, and were `input_bytes`.

    `before` is filled until then.
    """

    async def keep(answer_id: str, choices: Sequence[AnsweredChoice], usage: Usage) -> None:
        choice = choices[0]
        status = status_of(choice.finish_reason)
        items = form.items(answer_id, choice)
        body = msgspec.json.encode(form.object(answer_id, status, items, usage=usage))
        form.stored = await kept.keep(
            subject,
            answer_id,
            before=before,
            input_items=input_items,
            body=body,
            whole_bytes=input_bytes + len(body),
        )

    return keep


def _compressed_input(given: str | Sequence[msgspec.Raw] | None) -> tuple[bytes, int]:
    """Return the items of the request as they are kept, and the size of their JSON."""
    if isinstance(given, str):
        json = msgspec.json.encode([{"type": "message", "role": "user", "content": given}])
    else:
        json = msgspec.json.encode(list(given or ()))
    return compressed(json), len(json)
