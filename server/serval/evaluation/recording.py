"""A file of requests and the answers to them, from which an interrupted run goes on."""

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from serval.evaluation.error import EvaluationError


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """A request with its answer: one line of the file. `began` is Unix time."""

    path: str
    request: Any
    status: int
    answer: Any
    began: float
    seconds: float


class Recording:
    """Exchanges of one trial. Each is given out once to a request that equals its own.

    A harness may send the same request several times, so equal requests take equal exchanges in turn. A
    line that a killed run left unfinished is cut off. Raises `EvaluationError` if the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._unused: defaultdict[str, deque[Exchange]] = defaultdict(deque)
        self.exchanges: list[Exchange] = []
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                exchange = msgspec.json.decode(line, type=Exchange)
            except msgspec.DecodeError as error:
                raise EvaluationError(f"line {number} of {path} is damaged: {error}") from error
            self.exchanges.append(exchange)
            self._unused[_key(exchange.path, exchange.request)].append(exchange)
        self._file = path.open("ab")
        self._file.truncate(len(whole))

    def take(self, path: str, request: Mapping[str, Any]) -> Exchange | None:
        """Return a recorded exchange of this request that was not given out yet; None without one."""
        unused = self._unused[_key(path, request)]
        return unused.popleft() if unused else None

    def add(self, exchange: Exchange) -> None:
        """Write an exchange that has just taken place."""
        self._file.write(msgspec.json.encode(exchange) + b"\n")
        self._file.flush()
        self.exchanges.append(exchange)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _key(path: str, request: Any) -> str:
    content = json.dumps([path, request], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()
