"""Bytes of the uploads that this process receives: files are added up only when they are whole."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serval.store.batch_errors import FullError


class Uploads:
    """The running uploads, by subject."""

    def __init__(self) -> None:
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def of(self, subject: str, *, room: int) -> Iterator[Callable[[int], None]]:
        """A function that counts bytes before they are written.

        It raises `FullError` if the subject's running uploads then have over `room` bytes.
        """
        counted = 0

        def count(size: int) -> None:
            nonlocal counted
            if self._bytes[subject] + size > room:
                raise FullError
            counted += size
            self._bytes[subject] += size

        try:
            yield count
        finally:
            self._bytes[subject] -= counted
            if not self._bytes[subject]:
                del self._bytes[subject]
