"""One request at a place: what it adds to the place's load, and what it tells about the place."""

import time

from serval.engine.place import Outcome, Place, PlaceObserver
from serval.engine.placement import PlacedPrompt
from serval.engine.protocol import GenerationDelta


class PlaceCall:
    """Adds what one request tells about its place, from its start until `end` is called."""

    def __init__(self, place: Place, prompt: PlacedPrompt, observer: PlaceObserver | None) -> None:
        """Note that the request is sent."""
        self.answered = False
        self._sent_at = time.perf_counter()
        self._place = place
        self._observer = observer
        self._tokens = prompt.tokens
        self._uncached = place.view.uncached(prompt)
        place.view.own_waiting += self._uncached
        place.view.index.add(prompt.blocks)
        if observer is not None:
            observer.place_request_started(place.name)

    def on_first(self, delta: GenerationDelta | None) -> None:
        """Note that the answer has begun, with `delta` unless it begins with an error."""
        self.answered = True
        self._place.view.own_waiting -= self._uncached
        if self._observer is not None and delta is not None:
            cached = min(delta.cached_tokens, self._tokens)
            self._observer.place_prompt(self._place.name, cached=cached, computed=self._tokens - cached)
            self._observer.place_first_token(self._place.name, time.perf_counter() - self._sent_at)

    def end(self, outcome: Outcome) -> None:
        """Note how the request has ended."""
        if not self.answered:
            self._place.view.own_waiting -= self._uncached
        if self._observer is not None:
            self._observer.place_request_ended(self._place.name, outcome)
