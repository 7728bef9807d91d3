"""The wire between a worker and the authority of its host: messages in msgpack, each behind its length."""

from collections.abc import Iterator, Sequence
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from serval.limits.messages import Decision, ReservationRequest

T = TypeVar("T")

_LENGTH_BYTES: Final = 4


class Reserve(Struct, frozen=True, array_like=True, tag="reserve"):
    """Asks for a reservation; the answer names `number`."""

    number: int
    request: ReservationRequest


class Settle(Struct, frozen=True, array_like=True, tag="settle"):
    """Ends a reservation with what was used. Without an answer, like the rest."""

    id: str
    tokens: int


class Close(Struct, frozen=True, array_like=True, tag="close"):
    """Ends a reservation as if it had never been."""

    id: str


class Renew(Struct, frozen=True, array_like=True, tag="renew"):
    """Says that the requests of these reservations still run."""

    ids: Sequence[str]


class ReserveReply(Struct, frozen=True, array_like=True, tag="reserve_reply"):
    """The answer to the `Reserve` of this number."""

    number: int
    decision: Decision


WorkerMessage = Reserve | Settle | Close | Renew

_encoder = msgspec.msgpack.Encoder()
worker_message_decoder: Final = msgspec.msgpack.Decoder(WorkerMessage)
reply_decoder: Final = msgspec.msgpack.Decoder(ReserveReply)


def encode(message: WorkerMessage | ReserveReply) -> bytes:
    """The message as it is sent."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class MessageReader(Generic[T]):
    """Puts messages together from what arrives in pieces."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """The messages that are whole by now. Raises msgspec's errors for what is no message."""
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= _LENGTH_BYTES:
            body = start + _LENGTH_BYTES
            end = body + int.from_bytes(self._buffer[start:body], "big")
            if end > len(self._buffer):
                break
            yield self._decoder.decode(self._buffer[body:end])
            start = end
        del self._buffer[:start]
