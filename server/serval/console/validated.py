"""Fields of forms as bodies of the admin API."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serval.caller.limits import LIMIT_NAMES
from serval.console.forms import Form
from serval.errors import InvalidRequestError

T = TypeVar("T", bound=BaseModel)


def validated(kind: type[T], **fields: Any) -> T:
    """Return the body. Raises `InvalidRequestError`, which names each field at fault."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(step) for step in problem['loc'])}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False)
        ]
        # A union yields one problem for each of its types.
        raise InvalidRequestError("; ".join(dict.fromkeys(problems))) from None


def count_of(form: Form, name: str, *, times: int) -> int | None:
    """Return a whole number of the form, `times` as much; None for an empty field."""
    text = form.text(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise InvalidRequestError(f"{name}: {text[:40]!r} is not a whole number.")
    return int(text) * times


def given_limits(form: Form) -> Mapping[str, int | str]:
    """Return the limits of the form's fields; an empty one is the default."""
    texts = {name: form.text(name) or "default" for name in LIMIT_NAMES}
    return {
        name: int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else text
        for name, text in texts.items()
    }
