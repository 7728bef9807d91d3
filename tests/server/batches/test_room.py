"""Lines that may run beside other requests."""

from serval.batches.room import QUIET_S, RAMP_S, Room


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_room_is_all_while_nobody_has_asked_for_anything() -> None:
    assert Room(most=16, busy=1, now=Clock()).allowed(0) == 16


def test_room_falls_at_once_and_rises_slowly() -> None:
    clock = Clock()
    room = Room(most=17, busy=1, now=clock)
    assert room.allowed(1) == 1
    clock.now += QUIET_S
    assert room.allowed(0) == 1
    clock.now += RAMP_S / 2
    assert room.allowed(0) == 9
    clock.now += RAMP_S
    assert room.allowed(0) == 17
    assert room.allowed(3) == 1
    assert room.allowed(0) == 1


def test_room_beside_others_is_never_more_than_all() -> None:
    assert Room(most=2, busy=8, now=Clock()).allowed(5) == 2
