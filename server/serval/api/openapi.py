"""The OpenAPI document, `GET /openapi.json`, made from the types the requests are decoded with."""

from typing import Any

import msgspec

import serval
from serval.wire.chat_request import ChatRequest
from serval.wire.completion_request import CompletionRequest
from serval.wire.tokenize import DetokenizeRequest, TokenizeRequest

_REFERENCES = "#/components/schemas/{name}"


def openapi_document() -> dict[str, Any]:
    """The document as a JSON object."""
    bodies, schemas = msgspec.json.schema_components(
        [ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest], ref_template=_REFERENCES
    )
    chat_request, completion_request, tokenize_request, detokenize_request = bodies
    schemas["Error"] = _ERROR
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Serval",
            "version": serval.__version__,
            "description": "OpenAI-compatible inference server.",
        },
        "paths": {
            "/v1/chat/completions": {
                "post": _operation(
                    "Answer a conversation, whole or as server-sent events",
                    {"application/json": {}, "text/event-stream": {}},
                    body=chat_request,
                )
            },
            "/v1/completions": {
                "post": _operation(
                    "Go on with a text, whole or as server-sent events",
                    {"application/json": {}, "text/event-stream": {}},
                    body=completion_request,
                )
            },
            "/tokenize": {
                "post": _operation(
                    "Token ids of a text or a conversation",
                    {"application/json": {}},
                    body=tokenize_request,
                )
            },
            "/detokenize": {
                "post": _operation("The text of token ids", {"application/json": {}}, body=detokenize_request)
            },
            "/v1/models": {"get": _operation("List the models", {"application/json": {}})},
            "/v1/models/{model_id}": {
                "parameters": [
                    {"name": "model_id", "in": "path", "required": True, "schema": {"type": "string"}}
                ],
                "get": _operation("One model", {"application/json": {}}),
            },
            "/healthz": {
                "get": _operation("Whether the gateway is alive", {"application/json": {}}, public=True)
            },
            "/readyz": {
                "get": _operation("Whether the engine takes requests", {"application/json": {}}, public=True)
            },
            "/metrics": {"get": _operation("Prometheus metrics", {"text/plain": {}}, public=True)},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(
    summary: str, content: dict[str, Any], *, body: dict[str, Any] | None = None, public: bool = False
) -> dict[str, Any]:
    error = {"application/json": {"schema": {"$ref": _REFERENCES.format(name="Error")}}}
    operation: dict[str, Any] = {
        "summary": summary,
        "security": [] if public else [{"bearer": []}],
        "responses": {
            "200": {"description": "Success", "content": content},
            "default": {"description": "Error", "content": error},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
