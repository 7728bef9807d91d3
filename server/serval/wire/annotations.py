"""Annotations of request fields that several types share."""

from msgspec import Meta


def one_of(*values: str) -> Meta:
    """List the values of a field in the OpenAPI document.

    The checks of `serval.wire` hold requests to them, with better messages than msgspec's.
    """
    return Meta(extra_json_schema={"enum": list(values)})
