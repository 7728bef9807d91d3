"""The model's own tokens of turns with tool calls, kept by the calls' ids.

A client sends a call back as it reads it: with its arguments in another order, with a default added, or with
numbers written differently. Rendered again, such a turn has other tokens than the model wrote, and the prefix
cache finds nothing from there on. Where the arguments still mean the same, the tokens themselves are used.
"""

import json
from array import array
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Final

from msgspec import Struct

from serval.schema.json_schema import same_json

# Bytes of the Python objects of one turn, beside its texts and tokens.
_TURN_BYTES: Final = 1_000
# A caller's turns may take this share of all memory at most.
_SHARE: Final = 4


class OwnCall(Struct, frozen=True):
    """A call as the client got it; `arguments` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


class OwnTurn(Struct, frozen=True):
    """A whole turn: its tokens without the one that ends it, and what the client got of it."""

    ids: "array[int]"
    content: str
    calls: Sequence[OwnCall]

    @property
    def size_bytes(self) -> int:
        """Memory of the turn, about."""
        texts = len(self.content) + sum(len(call.arguments) + len(call.name) for call in self.calls)
        return _TURN_BYTES * len(self.calls) + 4 * len(self.ids) + texts


class OwnTurns:
    """Turns of all callers, the newest of them. Safe to use from several threads."""

    def __init__(self, capacity_bytes: int) -> None:
        """`capacity_bytes`: memory of all turns; a quarter of it is for one caller at most."""
        self._capacity_bytes = capacity_bytes
        self._lock = Lock()
        # By caller and id of the turn's first call, the oldest first; and the same of each caller.
        self._turns: OrderedDict[tuple[str, str], OwnTurn] = OrderedDict()
        self._ids: dict[str, OrderedDict[str, None]] = {}
        self._bytes_of: dict[str, int] = {}
        self._bytes = 0

    @property
    def size_bytes(self) -> int:
        """Memory of all turns, about."""
        return self._bytes

    def put(self, caller: str, turn: OwnTurn) -> None:
        """Keep a turn, and forget the oldest ones that there is no room for."""
        size, share = turn.size_bytes, self._capacity_bytes // _SHARE
        if size > share or not turn.calls:
            return
        with self._lock:
            self._add(caller, turn, size)
            while self._bytes_of[caller] > share:
                self._forget(caller, next(iter(self._ids[caller])))
            while self._bytes > self._capacity_bytes:
                self._forget(*next(iter(self._turns)))

    def find(
        self, caller: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
    ) -> dict[int, "array[int]"]:
        """Return the model's own tokens of the messages that say the same as a kept turn, by index.

        `messages` and `tools` are OpenAI's. An argument may be missing, or have been added, if its value is
        the default in the tool's schema.
        """
        found: dict[int, array[int]] = {}
        if not self._turns:
            return found
        # The model wrote each of them once. Copies would have its arguments decoded again for each.
        seen: set[str] = set()
        for index, message in enumerate(messages):
            calls = message.get("tool_calls")
            if not calls:
                continue
            call_id = calls[0]["id"]
            if call_id in seen:
                continue
            seen.add(call_id)
            turn = self._get(caller, call_id)
            if turn is not None and _says_the_same(turn, message, tools):
                found[index] = turn.ids
        return found

    def _get(self, caller: str, call_id: str) -> OwnTurn | None:
        with self._lock:
            turn = self._turns.get((caller, call_id))
            if turn is not None:
                self._turns.move_to_end((caller, call_id))
                self._ids[caller].move_to_end(call_id)
            return turn

    def _add(self, caller: str, turn: OwnTurn, size: int) -> None:
        call_id = turn.calls[0].id
        self._turns[caller, call_id] = turn
        self._ids.setdefault(caller, OrderedDict())[call_id] = None
        self._bytes_of[caller] = self._bytes_of.get(caller, 0) + size
        self._bytes += size

    def _forget(self, caller: str, call_id: str) -> None:
        size = self._turns.pop((caller, call_id)).size_bytes
        self._bytes -= size
        self._bytes_of[caller] -= size
        del self._ids[caller][call_id]
        if not self._ids[caller]:
            del self._ids[caller], self._bytes_of[caller]


def _says_the_same(turn: OwnTurn, message: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> bool:
    calls = message["tool_calls"]
    if [call["id"] for call in calls] != [call.id for call in turn.calls]:
        return False
    if _text_of(message.get("content")).strip() != turn.content.strip():
        return False
    return all(
        call["function"]["name"] == own.name and _mean_the_same(own, call["function"]["arguments"], tools)
        for call, own in zip(calls, turn.calls, strict=True)
    )


def _text_of(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.get("text") or "" for part in content)


def _mean_the_same(own: OwnCall, given: Any, tools: Sequence[Mapping[str, Any]]) -> bool:
    if given == own.arguments:
        return True
    mine = json.loads(own.arguments)
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return False
    if not isinstance(given, Mapping):
        return False
    defaults = _defaults_of(own.name, tools)
    return same_json({**defaults, **mine}, {**defaults, **given})


def _defaults_of(name: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    for tool in tools:
        if tool["function"]["name"] != name:
            continue
        properties = (tool["function"].get("parameters") or {}).get("properties")
        if not isinstance(properties, Mapping):
            break
        return {
            key: schema["default"]
            for key, schema in properties.items()
            if isinstance(schema, Mapping) and "default" in schema
        }
    return {}
