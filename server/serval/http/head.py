"""The head of the request that is being received."""

from serval.http.limits import HttpLimits


class RequestHead:
    """Target and fields so far, and their size, which the parser does not limit.

    Trailer fields count towards the size but are dropped: RFC 9110, 6.5.1 forbids merging them into the head.
    """

    __slots__ = (
        "_limits",
        "_size",
        "complete",
        "expects_continue",
        "fields",
        "offers_upgrade",
        "target",
        "too_large",
        "unfinished_bytes",
    )

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self.too_large = False
        self.begin()

    def begin(self) -> None:
        """Begin the head of the next request."""
        self._size = 0
        # Header bytes received, excluding the chunk in which the head began. The parser reports a field only
        # when it is complete.
        self.unfinished_bytes = 0
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.expects_continue = False
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
            if name == b"expect" and value.lower() == b"100-continue":
                self.expects_continue = True
            self.fields.append((name, value))

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
