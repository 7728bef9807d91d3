"""Errors of pydantic as errors of the API."""

from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from serval.api.exception_handlers import validation_error
from serval.errors import InvalidRequestError


class Inner(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    size: int | Literal["all"] | list[int]


class Outer(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    inner: list[Inner]


def error_of(body: Any) -> InvalidRequestError:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(body)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()]
    return validation_error(errors, body)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "inner", "missing_required_parameter"),
        ({"inner": [{}]}, "inner[0].size", "missing_required_parameter"),
        ({"inner": [{"size": 1}, {"size": 1, "int": 2}]}, "inner[1].int", "unknown_parameter"),
        ({"inner": 1}, "inner", "invalid_type"),
        ({"inner": [1]}, "inner[0]", "invalid_type"),
        ({"inner": [{"size": {}}]}, "inner[0].size", "invalid_type"),
        ({"inner": [{"size": "some"}]}, "inner[0].size", "invalid_value"),
        ({"inner": [{"size": [1, "x"]}]}, "inner[0].size", "invalid_type"),
    ],
)
def test_validation_error_names_the_field_at_fault(body: Any, param: str, code: str) -> None:
    error = error_of(body)
    assert (error.status, error.param, error.code) == (400, param, code)


def test_validation_error_of_a_union_gives_every_reason() -> None:
    message = error_of({"inner": [{"size": "some"}]}).message
    assert message == (
        "Invalid value for 'inner[0].size': input should be a valid integer,"
        " or input should be 'all', or input should be a valid list."
    )


@pytest.mark.parametrize(
    ("location", "param"), [(("query", "limit"), "limit"), (("query", "group_by", 1), "group_by[1]")]
)
def test_query_parameter_at_fault_is_named(location: tuple[Any, ...], param: str) -> None:
    error = validation_error([{"loc": location, "type": "int_type", "msg": "Bad", "input": "x"}], None)
    assert error.param == param
