"""`kill -9` at any moment loses nothing that was acknowledged.

COORDINATOR_KILLS=200 runs the long version.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coordinator.db import open_sqlite
from coordinator.settings import NetworkSettings
from tests.coordinator.records import WALL

KILLS = int(os.environ.get("COORDINATOR_KILLS", "10"))

# Writes as fast as it can, some at a time, and says so after each: "user name", "used key-prefix node-key".
WRITER = """
import asyncio, os, sys
from pathlib import Path
from coordinator.db import open_sqlite
from coordinator.settings import NetworkSettings
from coordinator.state import State
from meshproto.keys import MachinePrivate, NodePrivate
from meshproto.messages import Hostinfo, RegisterAuth, RegisterRequest

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def stream(state, number):
    while True:
        name = f"u{os.urandom(8).hex()}"
        user = await state.create_user(name)
        say("user", name)
        key, text = await state.create_pre_auth_key(user.id)
        say("key", key.prefix)
        node_key = NodePrivate.generate(os.urandom).public
        request = RegisterRequest(
            node_key=node_key, auth=RegisterAuth(auth_key=text), hostinfo=Hostinfo(hostname=name)
        )
        await state.register(MachinePrivate.generate(os.urandom).public, request)
        say("node", key.prefix, node_key)

async def main():
    database = await open_sqlite(Path(sys.argv[1]))
    async with State.open(database, NetworkSettings()) as state:
        say("ready")
        await asyncio.gather(*(stream(state, number) for number in range(8)))

asyncio.run(main())
"""


async def acknowledged_writes_are_there(database: Path, lines: list[str]) -> None:
    opened = await open_sqlite(database)
    snapshot = await opened.load(NetworkSettings(), WALL)
    await opened.close()
    node_keys = {str(node.node_key) for node in snapshot.nodes.values()}
    for line in lines:
        match line.split():
            case ["user", name]:
                assert name in snapshot.user_ids_by_name
            case ["key", prefix]:
                assert prefix in snapshot.key_ids_by_prefix
            case ["node", prefix, node_key]:
                assert node_key in node_keys
                assert snapshot.pre_auth_keys[snapshot.key_ids_by_prefix[prefix]].used
    # One key, one node: the consumption and the node are one write.
    used = [key for key in snapshot.pre_auth_keys.values() if key.used]
    assert len(used) == len(snapshot.nodes)
    addresses = [node.ipv4 for node in snapshot.nodes.values()]
    assert len(addresses) == len(set(addresses))


def lines_until_killed(database: Path) -> list[str]:
    """What a writer acknowledged before it was killed at a random moment."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, database], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    time.sleep(random.uniform(0.0, 0.3))
    writer.send_signal(signal.SIGKILL)
    output, _ = writer.communicate()
    # The last line may be cut: what it would have said was not acknowledged to anybody.
    return output.decode().rpartition("\n")[0].splitlines()


@pytest.mark.timeout(60 + 10 * KILLS)
def test_killed_while_writing(tmp_path: Path) -> None:
    database = tmp_path / "db.sqlite"
    lines: list[str] = []
    for _ in range(KILLS):
        lines += lines_until_killed(database)
        asyncio.run(acknowledged_writes_are_there(database, lines))
    assert len(lines) > KILLS
