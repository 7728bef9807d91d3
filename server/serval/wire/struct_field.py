"""msgspec types as fields of pydantic models, so that the chat endpoint and others share one definition."""

from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from serval.wire.components import struct_schema
from serval.wire.decode import convert_json


class StructField:
    """Annotation of a pydantic field whose type msgspec converts and describes.

    An invalid value raises `InvalidRequestError` instead of pydantic's own error. In the OpenAPI document the
    field refers to components that `Application` adds.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def convert(value: Any, info: core_schema.ValidationInfo) -> Any:
            return convert_json(value, self._kind, below=info.field_name or "")

        return core_schema.with_info_plain_validator_function(convert)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return struct_schema(self._kind)
