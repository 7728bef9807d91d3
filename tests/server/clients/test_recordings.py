"""Recorded requests, and the text that is filled in."""

import re

from serval.clients.recordings import filler, known_clients, recordings_of


def test_every_recording_is_read_and_filled() -> None:
    clients = known_clients()
    assert {"codex", "claude-code", "opencode"} <= set(clients)
    for client in clients:
        recordings = recordings_of(client)
        assert recordings, client
        for recording in recordings:
            assert recording.api
            assert isinstance(recording.body.get("tools", []), list)
            assert not re.search(r"<\d+ characters>", repr(recording.body))


def test_recordings_hold_no_key_and_no_folder_of_a_user() -> None:
    for client in known_clients():
        for recording in recordings_of(client):
            for name in ("authorization", "x-api-key"):
                assert recording.headers.get(name, "KEY").removeprefix("Bearer ") == "KEY"
            # Agents worked in a folder that was then named /project.
            assert not re.search(r"/(home|root|Users|tmp)/", repr(recording.body))


def test_filler_has_the_length_asked_for() -> None:
    assert [len(filler(length)) for length in (0, 1, 94, 95, 16_979)] == [0, 1, 94, 95, 16_979]
    assert "<" not in filler(1000)
