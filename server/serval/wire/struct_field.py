"""msgspec types as fields of pydantic models, so that the chat endpoint and others share one definition."""

from typing import Any

import msgspec
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from serval.wire.components import struct_schema
from serval.wire.decode import convert_json, decode_json


class StructField:
    """Annotation of a pydantic field whose type msgspec decodes and describes.

    Accepts decoded JSON or `msgspec.Raw`. An invalid value raises `InvalidRequestError` instead of pydantic's
    own error, which would collect an entry for each invalid item: gigabytes, and a minute without serving,
    for a large list. In the OpenAPI document the field refers to components that `Application` adds.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def convert(value: Any, info: core_schema.ValidationInfo) -> Any:
            name = info.field_name or ""
            if isinstance(value, msgspec.Raw):
                return decode_json(self._decoder, value, below=name)
            return convert_json(value, self._kind, below=name)

        return core_schema.with_info_plain_validator_function(convert)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return struct_schema(self._kind)
