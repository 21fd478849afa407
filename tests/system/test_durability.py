"""What the coordinator acknowledged is there after any crash."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest

from tests.netlab import CommandFailed, wait_for
from tests.netlab.programs import Coordinator
from tests.system.conftest import SmallMesh

# The acceptance is 200 kills; by hand: MESHNODE_KILLS=200 pytest tests/system/test_durability.py --timeout=0
KILLS = int(os.environ.get("MESHNODE_KILLS", "6"))
WRITERS = 2

pytestmark = [pytest.mark.system, pytest.mark.timeout(60 + 20 * KILLS)]


class Writer(threading.Thread):
    """Creates users and keys by the command line, and remembers which were acknowledged."""

    def __init__(self, number: int, coordinator: Coordinator, over: threading.Event) -> None:
        super().__init__()
        self.number = number
        self.coordinator = coordinator
        self.over = over
        self.users: list[str] = []
        self.keys: list[str] = []
        self.refused = 0

    def run(self) -> None:
        count = 0
        while not self.over.is_set():
            count += 1
            name = f"w{self.number}u{count}"
            try:
                self.coordinator.run("users", "create", name)
                self.users.append(name)
                self.keys.append(self.coordinator.run("preauthkeys", "create", "--user", name).stdout.strip())
            except CommandFailed:
                self.refused += 1  # the coordinator was killed under it: not acknowledged


def acknowledged(writers: list[Writer]) -> int:
    """How many users there have to be."""
    return sum(len(writer.users) for writer in writers)


def test_no_acknowledged_write_is_lost_by_killing_the_coordinator(mesh: SmallMesh) -> None:
    coordinator = mesh.coordinator
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    over = threading.Event()
    writers = [Writer(number, coordinator, over) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(KILLS):
            # Commands have to get through first: on a busy machine none may, from one kill to the next.
            seen = acknowledged(writers)
            wait_for(lambda seen=seen: acknowledged(writers) > seen, 60, what="a write")  # type: ignore[misc]
            time.sleep(moments.uniform(0.05, 1.0))
            coordinator.kill()
            coordinator.start()
    finally:
        over.set()
        for writer in writers:
            writer.join()
    wait_for(coordinator.is_healthy, 10, what="the coordinator's health")
    written_users = {name for writer in writers for name in writer.users}
    written_keys = {key.split("-")[2] for writer in writers for key in writer.keys}
    kept_users = {user["name"] for user in coordinator.query("users", "list")}
    kept_keys = {key["key"].split("-")[2] for key in coordinator.query("preauthkeys", "list")}
    assert len(written_users) >= KILLS, "hardly anything was written"
    assert written_users <= kept_users, f"lost users: {sorted(written_users - kept_users)}"
    assert written_keys <= kept_keys, f"lost keys: {sorted(written_keys - kept_keys)}"
    print(f"{KILLS} kills, {len(written_users)} users and {len(written_keys)} keys acknowledged and kept")
