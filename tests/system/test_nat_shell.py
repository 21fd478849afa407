"""`make lab`, as a person uses it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.netlab.host import PROJECT
from tests.netlab.networks import KINDS, NETWORKS


def lab(*words: str, commands: str = "") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.netlab.natshell", *words]
    return subprocess.run(
        argv, input=commands, capture_output=True, text=True, cwd=PROJECT, timeout=110, check=False
    )


def test_no_name_and_a_wrong_name_list_what_there_is() -> None:
    for words, status in (((), 0), (("nowhere",), 2), (("open,nowhere",), 2)):
        done = lab(*words)
        assert done.returncode == status
        shown = {line.split()[0] for line in (done.stdout + done.stderr).splitlines() if line.strip()}
        assert {*NETWORKS, *KINDS} <= shown


@pytest.mark.system
def test_every_host_is_a_command_and_nothing_is_left_behind() -> None:
    commands = """
    set -e
    left meshnode ping --until-direct right
    right meshnode ping -c 1 left
    coordinator coordinator nodes list --output json | grep -c givenName
    left-router nft list table ip nat | grep masquerade
    exit 7
    """
    done = lab("cgnat-hairpin", commands=commands)
    assert "via 25.0.113." in done.stdout, done.stdout + done.stderr
    assert "masquerade" in done.stdout
    assert done.returncode == 7, done.stdout + done.stderr
    assert "Left behind: nothing" in done.stdout + done.stderr
