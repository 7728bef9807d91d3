"""The exception tree and its mapping to the wire."""

from collections.abc import Iterator

import pytest

from serval.errors import ApiError, MethodNotAllowedError, error_object


def leaves(kind: type[ApiError]) -> Iterator[type[ApiError]]:
    for child in kind.__subclasses__():
        yield child
        yield from leaves(child)


@pytest.mark.parametrize("kind", list(leaves(ApiError)), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_a_type_and_a_code(kind: type[ApiError]) -> None:
    error = kind("m", allow="GET") if issubclass(kind, MethodNotAllowedError) else kind("m")
    assert 400 <= kind.status < 600
    assert kind.status != 422
    body = error_object(error)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"]


def test_default_codes_are_unique() -> None:
    kinds = list(leaves(ApiError))
    assert len({kind.default_code for kind in kinds}) == len(kinds)
