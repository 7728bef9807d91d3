"""Reading a request's body and preparing its prompt, with bounded memory and fair shares of the CPU."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from starlette.types import Receive, Scope

from serval.api.context import ApiContext, ServedModel
from serval.api.http import identity_of, read_json_pieces, while_connected
from serval.errors import ApiError, ContextLengthError
from serval.scheduling.body_budget import HeldBody
from serval.wire.decode import checked_utf8

T = TypeVar("T")


async def prepared(
    context: ApiContext, scope: Scope, receive: Receive, held: HeldBody, work: Callable[[bytes], T]
) -> T:
    """Read the body as `held`, and return what `work` makes of it.

    A long request waits for its turn, and gives it up when the client leaves. Raises what `work` raises, the
    errors of `read_json_pieces` and those of the queue, and `InvalidRequestError` for a body that is not
    UTF-8.
    """
    pieces = await read_json_pieces(scope, receive, max_bytes=context.settings.max_body_bytes, held=held)
    return await in_turn(context, scope, receive, held.size, lambda: work(checked_utf8(b"".join(pieces))))


async def in_turn(context: ApiContext, scope: Scope, receive: Receive, size: int, work: Callable[[], T]) -> T:
    """Do the work on a request of `size` bytes: at once, or if it is long, in a thread when it is its turn.

    Raises what `work` raises, `ClientGoneError` and the errors of `RenderQueue.run`.
    """
    if not context.rendering.is_long(size):
        return work()
    turn = context.rendering.run(identity_of(scope).subject, size, partial(result_or_error, work))
    result = await while_connected(scope, receive, turn)
    if isinstance(result, ApiError):
        raise result
    return result


def result_or_error(work: Callable[[], T]) -> T | ApiError:
    """Return the result of `work`, or the `ApiError` that it raised, without what its traceback holds."""
    try:
        return work()
    except ApiError as error:
        # Tracebacks keep the variables of their functions: the request's texts, several times over.
        error.__context__ = None
        return error.with_traceback(None)


def beyond_context(model: ServedModel, *, tokens: int, param: str) -> ContextLengthError:
    """Return the error for a `param` with more than `tokens` tokens."""
    subject = "messages and tools have" if param == "messages" else f"{param} has"
    return ContextLengthError(
        f"This model's maximum context length is {model.context_length} tokens. The {subject} more than"
        f" {tokens}. Shorten the {param}.",
        param=param,
        prompt_tokens=tokens + 1,
        limit=tokens,
    )
