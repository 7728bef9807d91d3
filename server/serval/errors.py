"""Serval's exception tree.

ServalError
 ├─ SettingsError                    a setting or option is missing or contradicts another
 ├─ ModelFilesError                  tokenizer or chat template files cannot be used
 ├─ UnknownKeyError                  no API key has this public id
 ├─ UnknownTeamError                 no team has this id
 ├─ TeamHasKeysError                 the team cannot be deleted while it has keys
 ├─ DeadKeyError                     the API key is revoked or has expired
 ├─ EngineMissingError               the engine's packages are not installed
 ├─ WorkerError                      a worker ended before the gateway served
 ├─ StackError                       engine or gateway could not start, or ended
 ├─ InputLineError                   a line of a command's input cannot be used
 ├─ SchemaError                      a JSON schema cannot be enforced (`serval.schema.error`)
 │   ├─ UnsatisfiableError           no value satisfies it
 │   └─ CircularSchemaError          a reference leads back to itself (`serval.grammar.enforceable`)
 ├─ ToolsFileError                   a file of tools cannot be used (`serval.talk.tools`)
 ├─ CommandError                     a command of a conversation cannot be done (`serval.talk.commands`)
 ├─ DiscoveryError                   a server could not be asked for its model (`serval.agents.discovery`)
 ├─ ConfigFileError                  an agent's file is not written (`serval.agents.writing`)
 ├─ EvaluationError                  a suite cannot be run or scored (`serval.evaluation.error`)
 │   └─ HarnessError                 the harness's own program failed
 ├─ ServerRefusedError               a server cannot be reached, or refused (`serval.talk.conversation`)
 └─ ApiError                         has an HTTP status and an OpenAI error object
     ├─ InvalidRequestError          400  the request itself is wrong
     │   ├─ ContextLengthError       400  prompt and requested completion do not fit the context
     │   ├─ MalformedRequestError    400  not HTTP, or ambiguous HTTP
     │   └─ ExpiredSealError         400  a sealed turn is genuine, and too old (`serval.chat.sealed_turn`)
     ├─ AuthenticationError          401  no key, or not an accepted one
     ├─ PermissionDeniedError        403  the key is good, but not for this
     │   └─ ModelNotAllowedError     403  the key is not for this model
     ├─ NotFoundError                404  no such URL
     │   ├─ ModelNotFoundError       404  no such model
     │   └─ ResponseNotFoundError    404  no such response is kept for the key
     ├─ MethodNotAllowedError        405  the URL exists, the method does not
     ├─ RequestTimeoutError          408  the request did not arrive in time
     ├─ BodyTooLargeError            413  request body over the limit
     ├─ UnsupportedEncodingError     415  the request body is compressed in a way that is not read here
     ├─ RateLimitError               429  the key's requests, tokens or concurrent requests are used up
     │   └─ InsufficientQuotaError   429  a budget of the key or its team is used up
     ├─ HeadTooLargeError            431  request headers over the limit
     ├─ InternalError                500  a defect of the gateway; the message never holds internals
     ├─ EngineFailureError           500  the engine reported that it failed
     ├─ TransferCodingError          501  the request body has a transfer coding other than chunked
     ├─ EngineProtocolError          502  the engine's answer is not its documented format
     ├─ EngineStreamBrokenError      502  the engine's answer ended before it was complete
     ├─ AuthUnavailableError         503  the key database could not be read for too long
     ├─ KeyDatabaseError             503  the key database could not be read or changed
     ├─ LimitsUnavailableError       503  a key's use of today could not be read for too long
     ├─ EngineUnavailableError       503  the engine cannot be reached or is not ready
     ├─ EngineOverloadedError        503  the engine, the queue for it, or this server is full
     ├─ ShuttingDownError            503  this process is being stopped
     ├─ TooManyConnectionsError      503  this process has no room for another client
     ├─ EngineTimeoutError           504  the engine sent nothing for too long
     └─ HttpVersionError             505  the request is neither HTTP/1.1 nor HTTP/1.0

`error_object` is the only place where an `ApiError` becomes the wire's `{"error": {...}}`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar


class ServalError(Exception):
    """Base of every error Serval raises on purpose; the message states the problem and the remedy."""


class SettingsError(ServalError):
    """A setting or an option is missing, unreadable or contradicts another."""


class ModelFilesError(ServalError):
    """The tokenizer or chat template files of a model cannot be used."""


class UnknownKeyError(ServalError):
    """No API key has this public id."""


class DeadKeyError(ServalError):
    """The API key is revoked or has expired."""


class UnknownTeamError(ServalError):
    """No team has this id."""


class TeamHasKeysError(ServalError):
    """The team cannot be deleted: it has keys."""


class EngineMissingError(ServalError):
    """The engine's packages are not installed beside the gateway."""


class WorkerError(ServalError):
    """A worker ended before the gateway served."""


class InputLineError(ServalError):
    """A line of a command's input cannot be used."""


class StackError(ServalError):
    """The engine or the gateway could not start, or ended while it was needed.

    `process` is the name of the one that ended, if one did.
    """

    def __init__(self, message: str, *, process: str | None = None) -> None:
        super().__init__(message)
        self.process = process


class ApiError(ServalError):
    """An error that a client of the API sees.

    `code` and `type` are stable: clients branch on them. `param` names the offending field of the request,
    as a path such as `messages[0].content`.
    """

    status: ClassVar[int]
    type: ClassVar[str]
    default_code: ClassVar[str | None]

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code
        self.retry_after_s = retry_after_s
        # Set by the edge, for APIs whose errors name it.
        self.request_id: str | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """Response headers that go with this error."""
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


class InvalidRequestError(ApiError):
    """The request is malformed or asks for something that is not allowed."""

    status = 400
    type = "invalid_request_error"
    default_code = "invalid_value"


class ContextLengthError(InvalidRequestError):
    """Prompt plus requested completion exceed the model's context."""

    default_code = "context_length_exceeded"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        prompt_tokens: int | None = None,
        limit: int | None = None,
    ) -> None:
        """`prompt_tokens`, as far as they were counted, are more than the `limit` if the prompt alone is."""
        super().__init__(message, param=param)
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class MalformedRequestError(InvalidRequestError):
    """The bytes are not an HTTP request, or an ambiguous one."""

    default_code = "malformed_request"


class AuthenticationError(ApiError):
    """No API key, or one that is not accepted. The key is never part of the message."""

    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"www-authenticate": "Bearer"}


class PermissionDeniedError(ApiError):
    """The key is accepted, but lacks the permission."""

    status = 403
    type = "invalid_request_error"
    default_code = "insufficient_permissions"


class ModelNotAllowedError(PermissionDeniedError):
    """The key is accepted, but not for this model."""

    default_code = "model_not_allowed"


class NotFoundError(ApiError):
    """No such URL."""

    status = 404
    type = "invalid_request_error"
    default_code = "unknown_url"


class ModelNotFoundError(NotFoundError):
    """The model asked for is not served here."""

    default_code = "model_not_found"


class ResponseNotFoundError(NotFoundError):
    """The key has no such response that is kept."""

    default_code = "response_not_found"


class MethodNotAllowedError(ApiError):
    """The URL exists but not for this method."""

    status = 405
    type = "invalid_request_error"
    default_code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self._allow = allow

    @property
    def headers(self) -> Mapping[str, str]:
        return {"allow": self._allow}


class RequestTimeoutError(ApiError):
    """Headers or body of the request did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    default_code = "request_timeout"


class HeadTooLargeError(ApiError):
    """The request's headers are over the limit."""

    status = 431
    type = "invalid_request_error"
    default_code = "headers_too_large"


class BodyTooLargeError(ApiError):
    """The request body is over the limit."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"The request body is larger than {max_bytes} bytes, the most this server reads.")


class UnsupportedEncodingError(ApiError):
    """The request body has a content coding that is not read here."""

    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_content_encoding"

    def __init__(self, message: str, *, accepted: str) -> None:
        """`accepted`: value of `Accept-Encoding`, which names the codings that are read."""
        super().__init__(message)
        self._accepted = accepted

    @property
    def headers(self) -> Mapping[str, str]:
        return {"accept-encoding": self._accepted}


class RateLimitError(ApiError):
    """The key's requests, tokens or concurrent requests are used up; waiting helps."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"

    def __init__(self, message: str, *, wait_ms: int = 0, headers: Mapping[str, str] | None = None) -> None:
        """`headers` describe the state of the limits."""
        super().__init__(message, retry_after_s=-(-wait_ms // 1000))
        self._headers = {**(headers or {}), "retry-after-ms": str(wait_ms)}

    @property
    def headers(self) -> Mapping[str, str]:
        return {**super().headers, **self._headers}


class InsufficientQuotaError(RateLimitError):
    """A budget of the key or of its team is used up; clients should not retry."""

    type = "insufficient_quota"
    default_code = "insufficient_quota"

    @property
    def headers(self) -> Mapping[str, str]:
        return {**super().headers, "x-should-retry": "false"}


class InternalError(ApiError):
    """A defect of the gateway."""

    status = 500
    type = "server_error"
    default_code = "internal_error"


class EngineFailureError(ApiError):
    """The engine reported a failure of its own."""

    status = 500
    type = "server_error"
    default_code = "engine_failure"


class TransferCodingError(ApiError):
    """The request body has a transfer coding other than chunked."""

    status = 501
    type = "invalid_request_error"
    default_code = "unsupported_transfer_coding"


class EngineProtocolError(ApiError):
    """The engine's answer is not its documented format."""

    status = 502
    type = "server_error"
    default_code = "engine_protocol_error"


class EngineStreamBrokenError(ApiError):
    """The engine's answer ended before a finish reason was seen."""

    status = 502
    type = "server_error"
    default_code = "engine_stream_broken"


class AuthUnavailableError(ApiError):
    """Keys cannot be checked at the moment."""

    status = 503
    type = "service_unavailable_error"
    default_code = "auth_unavailable"


class KeyDatabaseError(ApiError):
    """The key database could not be read or changed; nothing was."""

    status = 503
    type = "service_unavailable_error"
    default_code = "key_database_unavailable"


class LimitsUnavailableError(ApiError):
    """The use of a key cannot be read at the moment."""

    status = 503
    type = "service_unavailable_error"
    default_code = "limits_unavailable"


class EngineUnavailableError(ApiError):
    """The engine cannot be reached, or reports that it is not ready."""

    status = 503
    type = "service_unavailable_error"
    default_code = "engine_unavailable"


class EngineOverloadedError(ApiError):
    """The engine or this server has no room for the request."""

    status = 503
    type = "service_unavailable_error"
    default_code = "server_is_overloaded"


class TooManyConnectionsError(ApiError):
    """This process has the maximum number of connections."""

    status = 503
    type = "service_unavailable_error"
    default_code = "too_many_connections"


class ShuttingDownError(ApiError):
    """The gateway is being stopped and takes no new requests, or could not finish this one in time."""

    status = 503
    type = "service_unavailable_error"
    default_code = "shutting_down"


class EngineTimeoutError(ApiError):
    """The engine sent nothing for longer than the stall limit."""

    status = 504
    type = "server_error"
    default_code = "engine_timeout"


class HttpVersionError(ApiError):
    """The request is of another version of HTTP than 1.1 and 1.0."""

    status = 505
    type = "invalid_request_error"
    default_code = "unsupported_http_version"


def error_object(error: ApiError) -> dict[str, Any]:
    """The OpenAI error object: nested, with all four keys."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}
