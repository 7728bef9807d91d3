"""Messages between a worker and the limit service: msgpack, each with its length in front."""

from collections.abc import Iterator, Sequence
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from serval.limits.messages import Decision, ReservationRequest

T = TypeVar("T")

_LENGTH_BYTES: Final = 4


class Reserve(Struct, frozen=True, array_like=True, tag="reserve"):
    """Request for a reservation; the reply has the same `number`."""

    number: int
    request: ReservationRequest


class Settle(Struct, frozen=True, array_like=True, tag="settle"):
    """End of a reservation with its use. No reply, as for the message below."""

    id: str
    requests: int
    tokens: int
    cost: int = 0


class Renew(Struct, frozen=True, array_like=True, tag="renew"):
    """Renewal of the leases of these reservations."""

    ids: Sequence[str]


class Charge(Struct, frozen=True, array_like=True, tag="charge"):
    """Use of budgets that was admitted while the service could not be reached."""

    subject: str
    day: int
    tokens: int
    cost: int


class ReserveReply(Struct, frozen=True, array_like=True, tag="reserve_reply"):
    """The reply to the `Reserve` of the same number."""

    number: int
    decision: Decision


WorkerMessage = Reserve | Settle | Renew | Charge

_encoder = msgspec.msgpack.Encoder()
worker_message_decoder: Final = msgspec.msgpack.Decoder(WorkerMessage)
reply_decoder: Final = msgspec.msgpack.Decoder(ReserveReply)


def encode(message: WorkerMessage | ReserveReply) -> bytes:
    """Encode a message with its length."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class MessageReader(Generic[T]):
    """Decoder of messages that arrive in pieces."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[T]:
        """The messages that are complete now. Raises msgspec's errors for an invalid message."""
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
