"""Choice of a place, which is one engine or one rank of it, for a prompt: two homes, learn, stay.

- *Two homes*: a prompt that is mostly system prompt and tools belongs where these belong, a longer one where
  its conversation does. Rendezvous hashing (Thaler and Ravishankar, 1998) finds both, so every process
  computes the same home and none has to tell another.
- *Learn*: an index of each place has the blocks of the prompts that this process sent there.
- *Spread*: what very many requests share has more homes, as many as keep the busiest place near the mean.
- *Stay*: a prompt goes where most of it is. It leaves only for a place that is idle, and only if that saves
  seconds of prefill. In an overload no place is idle, and moving would add to the work.
- *Weights*: a place is the home of conversations in proportion to its weight. No prompt leaves for a place
  of less weight, unless that is its home: a canary, which has little to do, would be idle for all of them.

Nothing here reads a clock or does I/O; the simulation of `serval_load` imports this module.
"""

from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import ceil, log
from typing import Final, Literal

from msgspec import Struct

from serval.chat.prompt_parts import PromptParts

BLOCK_TOKENS: Final = 256
# Seconds of prefill waiting, and share of the KV cache in use by requests, below which a place is idle.
IDLE_S: Final = 0.25
IDLE_KV_USE: Final = 0.6
# Seconds of prefill that leaving has to save. With three gateways, a gain of one second finds 3 % less in the
# caches: the other two do not learn of the move.
GAIN_S: Final = 2.0
# Part by which the busiest place may exceed the mean because of one shared part, and the requests in flight
# for which another home of it is worth computing it there.
UNEVENNESS: Final = 0.15
HOME_REQUESTS: Final = 2
# Tokens a second, assumed until the place has reported some work.
FIRST_PREFILL_PER_S: Final = 20_000.0
# Beginning of a prompt of unknown structure that tells conversations apart.
_UNKNOWN_FIRST_TURN: Final = 1024

# room: the working set of conversations had room there, and not where the prompt would have gone.
Reason = Literal["only", "home", "held", "idle", "room"]
REASONS: Final[tuple[Reason, ...]] = ("only", "home", "held", "idle", "room")


class PlacedPrompt(Struct, frozen=True):
    """A prompt as the choice sees it; lengths are in tokens."""

    tokens: int
    # Hashes of the whole blocks of `BLOCK_TOKENS`, each of which stands for all tokens before it too.
    blocks: Sequence[int]
    # System prompt and tools, which other conversations share.
    shared: int
    # Prompt of the conversation's previous turn; 0 in its first.
    earlier: int
    # Hashes of owner and prompt up to the end of the first user message, and of owner and shared part.
    conversation: bytes
    shared_key: bytes

    @property
    def is_mostly_shared(self) -> bool:
        """True if the prompt belongs where its shared part does."""
        return self.tokens <= 2 * self.shared


class PromptKeys(Struct, frozen=True):
    """The part of a `PlacedPrompt` that tells conversations apart."""

    shared: int
    earlier: int
    conversation: bytes
    shared_key: bytes


def keys_of(input_ids: Sequence[int], *, owner: str, parts: PromptParts | None) -> PromptKeys:
    """Return the keys of a prompt. Prompts of different owners share none."""
    parts = _known_parts(parts, len(input_ids))
    ids = array("I", input_ids[: max(parts.first_turn, parts.shared)])
    return _keys_of(memoryview(ids).cast("B"), ids.itemsize, salt=_salt_of(owner), parts=parts)


def placed_prompt(input_ids: Sequence[int], *, owner: str, parts: PromptParts | None) -> PlacedPrompt:
    """Return the prompt as `choose` needs it. Prompts of different owners share neither home nor blocks."""
    ids = input_ids if isinstance(input_ids, array) else array("I", input_ids)
    # Without its own bytes a slice would be copied three times.
    data, size = memoryview(ids).cast("B"), ids.itemsize
    salt = _salt_of(owner)
    blocks = []
    link = salt[:8]
    for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        block = data[start * size : (start + BLOCK_TOKENS) * size]
        link = blake2b(block, digest_size=8, key=link).digest()
        blocks.append(int.from_bytes(link, "little"))
    keys = _keys_of(data, size, salt=salt, parts=_known_parts(parts, len(ids)))
    return PlacedPrompt(
        tokens=len(ids),
        blocks=blocks,
        shared=keys.shared,
        earlier=keys.earlier,
        conversation=keys.conversation,
        shared_key=keys.shared_key,
    )


def _known_parts(parts: PromptParts | None, tokens: int) -> PromptParts:
    if parts is not None:
        return parts
    return PromptParts(shared=0, first_turn=min(tokens, _UNKNOWN_FIRST_TURN), earlier=0)


def _salt_of(owner: str) -> bytes:
    return blake2b(owner.encode(), digest_size=16).digest()


def _keys_of(data: memoryview, size: int, *, salt: bytes, parts: PromptParts) -> PromptKeys:
    return PromptKeys(
        shared=parts.shared,
        earlier=parts.earlier,
        conversation=blake2b(data[: parts.first_turn * size], digest_size=16, key=salt).digest(),
        shared_key=blake2b(data[: parts.shared * size], digest_size=16, key=salt).digest(),
    )


class PrefixIndex:
    """Blocks of the prompts that were sent to a place, as many as its KV cache has room for."""

    def __init__(self, kv_tokens: int) -> None:
        self._limit = max(1, kv_tokens // BLOCK_TOKENS)
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def match(self, blocks: Sequence[int]) -> int:
        """Return the number of leading blocks that the place should hold."""
        for number, block in enumerate(blocks):
            if block not in self._blocks:
                return number
        return len(blocks)

    def add(self, blocks: Sequence[int]) -> None:
        """Add the blocks of a prompt that was sent, and drop those used least recently."""
        # The end of a chain is useless without its start, so the start must be the more recent.
        for block in reversed(blocks):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._limit:
            self._blocks.popitem(last=False)


@dataclass(eq=False)
class PlaceView:
    """One place as a process sees it. `identity` is the same in all processes: homes depend on it."""

    identity: str
    index: PrefixIndex
    # Prompt tokens that are still to be computed: of this process's requests without a first token, and of
    # all requests that waited in the engine when it was last asked.
    own_waiting: int = 0
    polled_waiting: int = 0
    # Share of the KV cache that running requests hold.
    kv_use: float = 0.0
    prefill_per_s: float = FIRST_PREFILL_PER_S
    # Conversations that it is the home of, beside the 1 of an ordinary place.
    weight: float = 1.0
    _hash: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._hash = self.identity.encode()

    @property
    def waiting_s(self) -> float:
        """Seconds of prefill before a request that arrives now."""
        return max(self.own_waiting, self.polled_waiting) / self.prefill_per_s

    @property
    def is_idle(self) -> bool:
        """True if a request that arrives now would be computed at once."""
        return self.waiting_s <= IDLE_S and self.kv_use <= IDLE_KV_USE

    def uncached(self, prompt: PlacedPrompt) -> int:
        """Return the prompt's tokens that the place would have to compute, as far as its index knows."""
        held = self.index.match(prompt.blocks) * BLOCK_TOKENS
        return prompt.tokens - min(held, prompt.tokens - 1)

    def digest(self, key: bytes) -> bytes:
        """Draw of this place for `key`: among places of equal weights, the highest is the home."""
        return blake2b(self._hash, digest_size=8, key=key).digest()

    def rank(self, key: bytes) -> tuple[float, bytes]:
        """Rank of this place for `key`: among places of any weights, the highest is the home.

        The draw as a number u between 0 and 1 gives -weight / ln(u): each place is the highest in proportion
        to its weight, and a changed weight moves only keys to or from that place (Schindelhauer and
        Schomaker, "Weighted distributed hash tables", SPAA 2005). Equal weights keep the order of the draws.
        """
        digest = self.digest(key)
        # With 52 bits, plus a half, neither 0 nor 1 is reached.
        drawn = ((int.from_bytes(digest, "big") >> 12) + 0.5) / (1 << 52)
        return -self.weight / log(drawn), digest


class InFlight:
    """Requests of this process that are with the places, and how many of them share a part."""

    def __init__(self) -> None:
        self._requests = 0
        self._sharing: Counter[bytes] = Counter()

    def started(self, prompt: PlacedPrompt) -> None:
        """Note a request that is sent."""
        self._requests += 1
        if prompt.is_mostly_shared:
            self._sharing[prompt.shared_key] += 1

    def ended(self, prompt: PlacedPrompt) -> None:
        """Note the end of a request that was sent."""
        self._requests -= 1
        if prompt.is_mostly_shared:
            self._sharing[prompt.shared_key] -= 1
            if not self._sharing[prompt.shared_key]:
                del self._sharing[prompt.shared_key]

    def homes(self, prompt: PlacedPrompt, places: int) -> int:
        """Return the number of homes that the prompt's shared part needs.

        If a share `s` of all requests has it, and the others are spread evenly over n places, each of its k
        homes gets `s / k + (1 - s) / n` of all, which is at most 1.15 / n for `k >= s n / (0.15 + s)`.
        """
        sharing = self._sharing.get(prompt.shared_key, 0)
        if sharing < HOME_REQUESTS:
            return 1
        share = sharing / self._requests
        return min(ceil(share * places / (UNEVENNESS + share)), 1 + sharing // HOME_REQUESTS)


class Choice(Struct, frozen=True):
    """A place for a prompt, and the tokens of the prompt that it should hold."""

    view: PlaceView
    held: int
    reason: Reason
    # Seconds of prefill that going to any other place would add.
    moving_s: float


def home_of(key: bytes, views: Sequence[PlaceView]) -> PlaceView:
    """Return the home of `key` among the places, by rendezvous hashing with their weights."""
    return max(views, key=_order_for(key, views))


def _order_for(key: bytes, views: Sequence[PlaceView]) -> Callable[[PlaceView], bytes | tuple[float, bytes]]:
    first = views[0].weight
    if all(view.weight == first for view in views):
        # The usual case, in half of the time.
        return lambda view: view.digest(key)
    return lambda view: view.rank(key)


def choose(prompt: PlacedPrompt, views: Sequence[PlaceView], *, shared_homes: int = 1) -> Choice:
    """Choose one of `views`, of which there is at least one, by the rule of the module.

    `shared_homes` is the number of homes that the prompt's shared part has (`InFlight.homes`).
    """
    sharers = sorted(views, key=_order_for(prompt.shared_key, views), reverse=True)[:shared_homes]
    held = _held(prompt, views, sharers)
    home = _home(prompt, prompt.tokens, views, sharers)
    keeper = max(views, key=lambda view: (held[view], view is home))
    reason: Reason = "held"
    if held[keeper] <= 2 * prompt.shared:
        # A start that many conversations share ties none of them to a place.
        keeper, reason = home, "home"

    def seconds(view: PlaceView) -> float:
        return view.waiting_s + (prompt.tokens - held[view]) / view.prefill_per_s

    chosen = keeper
    idle = [view for view in views if view.is_idle and (view.weight >= keeper.weight or view is home)]
    if idle:
        best = min(idle, key=seconds)
        if seconds(best) + GAIN_S < seconds(keeper):
            chosen, reason = best, "idle"
    if len(views) == 1:
        reason = "only"
    elsewhere = max((tokens for view, tokens in held.items() if view is not chosen), default=0)
    moving_s = max(0, held[chosen] - elsewhere) / chosen.prefill_per_s
    return Choice(chosen, held[chosen], reason, moving_s)


def _home(
    prompt: PlacedPrompt, tokens: int, views: Sequence[PlaceView], sharers: Sequence[PlaceView]
) -> PlaceView:
    """Return the home of the conversation when its prompt had `tokens` tokens."""
    return home_of(prompt.conversation, views if tokens > 2 * prompt.shared else sharers)


def _held(
    prompt: PlacedPrompt, views: Sequence[PlaceView], sharers: Sequence[PlaceView]
) -> dict[PlaceView, int]:
    """Return the tokens of the prompt that each place should hold; the last one is always computed."""
    held = {view: view.index.match(prompt.blocks) * BLOCK_TOKENS for view in views}
    if max(held.values()) + BLOCK_TOKENS <= prompt.earlier:
        # Another process sent the turn before, most likely to where this one would have sent it.
        held[_home(prompt, prompt.earlier, views, sharers)] = prompt.earlier
    for view in sharers:
        held[view] = max(held[view], prompt.shared)
    return {view: min(tokens, prompt.tokens - 1) for view, tokens in held.items()}
