"""The head of the request that is being received."""

import re
from typing import Final

from serval.errors import HttpVersionError, MalformedRequestError, TransferCodingError
from serval.http.limits import HttpLimits

# RFC 9110, 7.2: a host name or address as in a URI, and a port. It may be empty.
_HOST: Final = re.compile(
    rb"(?:\[[0-9A-Za-z:.]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(?::[0-9]{0,5})?"
)
# Fields that say something about the connection or the framing.
_NOTED: Final = frozenset({b"host", b"expect", b"transfer-encoding"})


class RequestHead:
    """Target and fields so far, and their size, which the parser does not limit.

    `check` holds the head to RFC 9112 where the parser does not.

    Trailer fields count towards the size but are dropped: RFC 9110, 6.5.1 forbids merging them into the head.
    """

    __slots__ = (
        "_checked_host",
        "_coding",
        "_host",
        "_hosts",
        "_limits",
        "_size",
        "complete",
        "expects_continue",
        "fields",
        "offers_upgrade",
        "received",
        "target",
        "too_large",
        "unfinished_bytes",
    )

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self.too_large = False
        # Most requests of a connection have the same host.
        self._checked_host = b""
        self.begin(b"")

    def begin(self, received: bytes) -> None:
        """Begin the head of the next request, somewhere in the bytes just `received`."""
        self._size = 0
        # All bytes that the head is part of.
        self.received = [received]
        # Header bytes received, excluding the chunk in which the head began. The parser reports a field only
        # when it is complete.
        self.unfinished_bytes = 0
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.expects_continue = False
        self._host = b""
        self._hosts = 0
        # Transfer codings of all fields, as sent.
        self._coding = b""
        # The head asks for another protocol, and the request may have a body.
        self.offers_upgrade = False
        self.complete = False

    def add_target(self, piece: bytes) -> None:
        """Add a piece of the request target."""
        if self._has_room(len(piece)):
            self.target += piece

    def add_field(self, name: bytes, value: bytes) -> None:
        """Add a field of the head, or count one of the trailer."""
        # Its size as sent: with a colon, a space and a line end.
        if self._has_room(len(name) + len(value) + 4) and not self.complete:
            name = name.lower()
            # The parser counts white space after the value as part of it.
            value = value.rstrip(b" \t")
            if name in _NOTED:
                self._note(name, value)
            self.fields.append((name, value))

    def _note(self, name: bytes, value: bytes) -> None:
        if name == b"host":
            self._host = value
            self._hosts += 1
        elif name == b"expect":
            self.expects_continue = value.lower() == b"100-continue"
        else:
            self._coding = self._coding + b", " + value if self._coding else value

    def check(self, method: bytes, version: str) -> None:
        """Check what the parser lets pass.

        Raises `MalformedRequestError`, `HttpVersionError` or `TransferCodingError`.
        """
        # The parser also accepts more than one space, HTTP/0.9, RTSP and ICE, and does not report them.
        line = b"%b %b HTTP/%b\r\n" % (method, self.target, version.encode())
        if line not in b"".join(self.received):
            raise MalformedRequestError("The request line is not of the form 'METHOD TARGET HTTP/1.1'.")
        # These bytes may include the body, and need not be kept while the request is answered.
        self.received.clear()
        if version == "1.0":
            # RFC 9110, 10.1.1: a client of HTTP/1.0 does not know the response 100.
            self.expects_continue = False
            if self._coding:
                raise MalformedRequestError("HTTP/1.0 has no Transfer-Encoding.")
        elif version != "1.1":
            raise HttpVersionError(f"This server speaks HTTP/1.1, not HTTP/{version}.")
        if self._coding and self._coding.lower() != b"chunked":
            raise TransferCodingError("The only transfer coding that this server reads is chunked.")
        if self._hosts > 1 or (self._hosts == 0 and version == "1.1"):
            raise MalformedRequestError("A request must have one Host header.")
        if self._host != self._checked_host:
            if _HOST.fullmatch(self._host) is None:
                raise MalformedRequestError("The Host header is not a host name with an optional port.")
            self._checked_host = self._host

    def without_upgrade(self, method: bytes, version: bytes) -> bytes:
        """Return the head as bytes, with `connection: close` instead of the offer of another protocol."""
        fields = [field for field in self.fields if field[0] not in (b"upgrade", b"connection")]
        lines = [b"%b: %b\r\n" % field for field in [*fields, (b"connection", b"close")]]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.target, version, b"".join(lines))

    def _has_room(self, size: int) -> bool:
        self._size += size
        if self._size > self._limits.head_bytes or len(self.fields) >= self._limits.head_fields:
            self.too_large = True
        return not self.too_large
