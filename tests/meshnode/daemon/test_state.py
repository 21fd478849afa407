"""The state directory: what survives, who may read it, and files that cannot be used."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from meshnode.prefs import Prefs
from meshnode.state import STATE_FILE, State, StateDir, StateError
from meshproto.keys import MachinePrivate, NodePrivate

FULL = State(
    machine_key=MachinePrivate.generate(os.urandom),
    node_key=NodePrivate.generate(os.urandom),
    old_node_key=NodePrivate.generate(os.urandom),
    login_server="https://vpn.example.org",
    prefs=Prefs(control_url="https://vpn.example.org", advertise_routes=("10.0.0.0/8",), want_running=True),
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "state"


def test_everything_survives(directory: Path) -> None:
    store = StateDir(directory)
    assert store.load() is None
    for state in (FULL, State(machine_key=FULL.machine_key)):
        store.save(state)
        assert store.load() == state


def test_only_the_owner_can_read(directory: Path) -> None:
    os.umask(0)
    store = StateDir(directory)
    store.save(FULL)
    store.save_netmap(b"{}")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}


def test_a_second_daemon_is_kept_out_until_the_first_ends(directory: Path) -> None:
    first = StateDir(directory)
    with pytest.raises(StateError, match=str(directory)):
        StateDir(directory)
    first.close()
    StateDir(directory).close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"[]", "damaged"),
        (b"{}", "damaged"),
        (b'{"version": 1}', "machine_key"),
        (b'{"version": 1, "machine_key": "privkey:00"}', "machine private key"),
        (b'{"version": "1"}', "damaged"),
        (b'{"version": 2, "machine_key": 5}', "newer"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_left_alone(
    directory: Path, content: bytes, says: str
) -> None:
    store = StateDir(directory)
    path = directory / STATE_FILE
    path.write_bytes(content)
    with pytest.raises(StateError, match=says) as raised:
        store.load()
    assert str(path) in str(raised.value)
    assert "move" in str(raised.value)
    assert path.read_bytes() == content


def test_a_message_about_a_damaged_file_holds_no_key(directory: Path) -> None:
    store = StateDir(directory)
    store.save(FULL)
    path = directory / STATE_FILE
    document = json.loads(path.read_text())
    document["node_key"] += "ff"
    path.write_text(json.dumps(document))
    with pytest.raises(StateError) as raised:
        store.load()
    assert document["node_key"][8:40] not in str(raised.value)


def test_a_failed_write_leaves_the_old_file_whole(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateDir(directory)
    store.save(FULL)

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StateError, match="No space left"):
        store.save(State(machine_key=MachinePrivate.generate(os.urandom)))
    assert store.load() == FULL


def test_the_cached_map_comes_and_goes(directory: Path) -> None:
    store = StateDir(directory)
    assert store.load_netmap() is None
    store.save_netmap(b"map")
    assert store.load_netmap() == b"map"
    store.delete_netmap()
    store.delete_netmap()
    assert store.load_netmap() is None
