"""Redis for the gateway's limits, and the entries that finished requests must not leave in it."""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from serval_load.programs import running_program


@dataclass(frozen=True)
class LimitsRedis:
    """A running Redis and its URL."""

    url: str
    client: Redis

    def held(self) -> Mapping[str, float]:
        """Numbers of leases and reservations of requests, by name."""
        return {
            "redis leases": sum(
                int(self.client.zcard(key)) for key in self.client.scan_iter("serval:*:open")
            ),
            "redis reservations": sum(
                int(self.client.hlen(key)) for key in self.client.scan_iter("serval:*:reservations")
            ),
        }

    def describe(self) -> str:
        """One line on the keys and the memory in use."""
        keys = sorted(str(key) for key in self.client.scan_iter())
        kinds = sorted({key.rpartition(":")[2] for key in keys})
        return f"{len(keys)} keys ({', '.join(kinds)}), {int(self.client.info()['used_memory'])} bytes"


@asynccontextmanager
async def running_redis() -> AsyncIterator[LimitsRedis]:
    """Run `redis-server` on a socket in a temporary folder, without persistence. Raises `RuntimeError`."""
    with tempfile.TemporaryDirectory(prefix="serval-load-") as folder:
        socket = Path(folder) / "redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--save", ""]
        async with running_program("redis", command) as program:
            await program.wait_for_line("eady to accept connections")
            yield LimitsRedis(f"unix://{socket}", Redis(unix_socket_path=str(socket), decode_responses=True))
