"""Bytes of running uploads."""

from contextlib import ExitStack

import pytest

from serval.batches.uploads import Uploads
from serval.store.batch_errors import FullError


def test_running_uploads_of_a_subject_share_the_room() -> None:
    uploads = Uploads()
    with ExitStack() as stack:
        first = stack.enter_context(uploads.of("a", room=10))
        first(6)
        with uploads.of("a", room=10) as second:
            second(4)
            with pytest.raises(FullError):
                second(1)
        first(4)
        with uploads.of("b", room=10) as other:
            other(10)
        with pytest.raises(FullError):
            first(1)
    with uploads.of("a", room=10) as again:
        again(10)


def test_upload_without_room_is_refused() -> None:
    with Uploads().of("a", room=-5) as count, pytest.raises(FullError):
        count(0)
