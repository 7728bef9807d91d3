"""One write for the head of an answer and the first piece of its body, which an ASGI server makes two of.

A write wakes the client's side; for a small answer it costs as much as a tenth of the rest.
"""

import asyncio

from uvicorn.protocols.http.flow_control import FlowControl


class JoinedHead:
    """A transport for one answer, as far as uvicorn's cycle uses one.

    What is written first waits for what is written next, at most until the event loop's next turn.
    """

    def __init__(
        self, transport: asyncio.Transport, flow: FlowControl, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._transport = transport
        self._flow = flow
        self._loop = loop
        self._begun = False
        self._head = b""

    def write(self, data: bytes) -> None:
        """Send `data` behind what waits, or let it wait if it is the first."""
        if not self._begun:
            self._begun = True
            self._head = data
            self._loop.call_soon(self._send_head)
        elif self._head:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def write_chunk(self, data: bytes) -> bool:
        """See `StreamedBody`. Only between an answer's head, if that names no length, and its end."""
        if self._flow.write_paused:
            return False
        if not self._transport.is_closing():
            self.write(b"%x\r\n%b\r\n" % (len(data), data))
        return True

    def close(self) -> None:
        """Close when all that was written is sent."""
        self._send_head()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closing or closed."""
        return self._transport.is_closing()

    def _send_head(self) -> None:
        if self._head:
            self._transport.write(self._head)
            self._head = b""
