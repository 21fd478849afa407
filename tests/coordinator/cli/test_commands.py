"""What the commands do and print, against a running coordinator."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
SHORT_KEY = re.compile(r"\[[A-Za-z0-9+/]{5}\]")
LONG_KEY = re.compile(r"(mkey|nodekey):[0-9a-f]{64}")
PREFIX = re.compile(r"hskey-auth-[0-9a-f]{12}")


def golden(name: str) -> str:
    """The text that a command is to print."""
    return (Path(__file__).parent / "golden" / f"{name}.txt").read_text()


def steady(text: str) -> str:
    """The text with what differs between runs replaced."""
    text = DATE.sub("YYYY-MM-DD HH:MM:SS", text)
    text = LONG_KEY.sub(r"\1:…", text)
    return PREFIX.sub("hskey-auth-0123456789ab", SHORT_KEY.sub("[abcde]", text))


def test_users(server: Any) -> None:
    assert server.ok("users", "create", "ana", "-d", "Ana B.", "-e", "ana@example.org") == "User created\n"
    assert server.ok("user", "new", "ben") == "User created\n"
    assert steady(server.ok("users", "list")) == golden("users-list")
    assert server.ok("users", "ls", "-n", "ben").splitlines()[1].startswith("2 ")
    assert server.ok("users", "show", "--email", "ana@example.org").splitlines()[1].startswith("1 ")
    assert server.ok("users", "list", "-i", "2", "-n", "ana").splitlines()[1].startswith("2 ")
    assert server.ok("users", "rename", "--name", "ben", "--new-name", "bob") == "User renamed\n"
    assert server.ok("users", "mv", "-i", "2", "-r", "ben") == "User renamed\n"
    asked = server.run("users", "destroy", "--name", "ben", stdin="n\n")
    assert (asked.status, asked.out) == (0, "User not destroyed\n")
    assert asked.err == ('Do you want to remove the user "ben" (2) and any associated preauthkeys? [y/n] ')
    assert server.run("users", "destroy", "-i", "2").out == "User not destroyed\n", "no answer is no"
    asked = server.run("users", "delete", "-i", "2", "-o", "json-line", stdin="")
    assert json.loads(asked.out) == {"Result": "User not destroyed"}
    assert server.run("users", "delete", "-i", "2", stdin="Yes\n").out == "User destroyed\n"
    assert json.loads(server.ok("users", "destroy", "-n", "ana", "--force", "-o", "json")) == {}
    assert server.ok("users", "list") == "ID | Name | Username | Email | Created\n"
    assert server.ok("users", "list", "-o", "json-line") == "[]\n"


def test_users_for_programs(server: Any) -> None:
    created = json.loads(server.ok("users", "create", "ana", "-p", "https://example.org/a.png", "-o", "json"))
    assert created["profilePicUrl"] == "https://example.org/a.png"
    assert json.loads(server.ok("-o", "json", "users", "list")) == [created]
    (as_yaml,) = yaml.safe_load(server.ok("users", "list", "-o", "yaml"))
    assert as_yaml["profilepicurl"] == "https://example.org/a.png"
    assert as_yaml["id"] == "1"


def test_pre_auth_keys(server: Any) -> None:
    server.ok("users", "create", "ana")
    key = server.ok("preauthkeys", "create", "--user", "ana")
    assert re.fullmatch(r"hskey-auth-[0-9a-f]{12}-[0-9a-f]{64}\n", key)
    server.ok("preauthkeys", "create", "--user=1", "--reusable=true", "--ephemeral", "-e=1d12h")
    server.ok("authkey", "new", "--tags", "tag:web,tag:db", "--tags", "tag:web")
    assert steady(server.ok("preauthkeys", "list")) == golden("preauthkeys-list")
    assert len(server.ok("preauthkeys", "list", "--user", "ana").splitlines()) == 3
    assert server.ok("preauthkeys", "expire", "--id", "1") == "Key expired\n"
    assert server.ok("preauthkeys", "revoke", "--user", "1", key.strip()) == "Key expired\n"
    assert server.ok("preauthkeys", "delete", "-i", "2") == "Key deleted\n"
    listed = json.loads(server.ok("pre", "ls", "-o", "json"))
    assert [entry["id"] for entry in listed] == ["1", "3"]
    shown = json.loads(server.ok("preauthkeys", "create", "--user", "ana", "-o", "json"))
    assert shown["id"] == "4"
    assert len(shown["key"]) == len(key.strip())


def test_a_waiting_node_is_registered(server: Any) -> None:
    server.ok("users", "create", "ana")
    url = server.machines.join("laptop")
    key = url.rpartition("/")[2]
    assert server.ok("nodes", "register", "--user", "ana", "--key", key) == "Node laptop registered\n"
    url = server.machines.join("phone")
    assert server.ok("auth", "register", "--user", "1", "--auth-id", url) == "Node phone registered\n"
    url = server.machines.join("tablet")
    old = server.ok("machines", "register", "--namespace", "ana", "-k", url, "-o", "json")
    assert json.loads(old)["givenName"] == "tablet"


def test_nodes(server: Any) -> None:
    server.ok("users", "create", "ana")
    server.ok("users", "create", "ben")
    server.node("Ana's Laptop")
    server.node("router", routes=["10.1.0.0/16", "0.0.0.0/0", "::/0"], stay=True)
    assert steady(server.ok("nodes", "list")) == golden("nodes-list")
    assert server.ok("nodes", "list", "-t") == server.ok("nodes", "show") == server.ok("nodes", "ls")
    assert server.ok("nodes", "list", "-u", "ana") == server.ok("-n", "1", "machines", "list")
    assert len(server.ok("nodes", "list", "--user", "ben").splitlines()) == 1

    assert server.ok("nodes", "rename", "-i", "1", "pc") == "Node renamed\n"
    assert server.ok("nodes", "move", "-i", "1", "--user", "ben") == "Node moved to another user\n"
    assert (
        server.ok("nodes", "expire", "-i", "1", "-e", "2099-01-31T12:00:00Z") == "Node expiration updated\n"
    )
    assert "2099-01-31 12:00:00" in server.ok("nodes", "list", "-u", "ben")
    assert server.ok("nodes", "expire", "-i", "1") == "Node expired\n"
    assert server.ok("nodes", "list", "-u", "ben").splitlines()[1].endswith(" | yes")
    assert server.ok("nodes", "logout", "-i", "1", "--disable") == "Node expiry disabled\n"
    assert server.ok("nodes", "tag", "-i", "1", "--tags", "tag:b,tag:a") == "Node updated\n"
    (tagged, _router) = json.loads(server.ok("nodes", "list", "-o", "json"))
    assert (tagged["tags"], tagged["user"]["name"]) == (["tag:a", "tag:b"], "tagged-devices")
    assert " | tagged-devices | tag:a | " in server.ok("nodes", "list").splitlines()[1]

    asked = server.run("nodes", "delete", "-i", "1", stdin="n\n")
    assert asked.err == "Do you want to remove the node Ana's Laptop? [y/n] "
    assert (asked.status, asked.out) == (0, "Node not deleted\n")
    deleted = server.ok("nodes", "del", "-i", "1", "--force", "-o", "json")
    assert json.loads(deleted) == {"Result": "Node deleted"}


def test_one_node_in_full(populated: Any) -> None:
    assert steady(populated.ok("nodes", "show", "-i", "2")) == golden("nodes-show")
    assert json.loads(populated.ok("nodes", "show", "-i", "2", "-o", "json"))["id"] == "2"


def test_routes(server: Any) -> None:
    server.ok("users", "create", "ana")
    server.node("laptop")
    server.node("router", routes=["10.1.0.0/16", "0.0.0.0/0", "::/0"], stay=True)
    header = "ID | Hostname | Approved | Available | Serving (Primary)\n"
    assert server.ok("nodes", "list-routes", "-i", "1") == header
    approve = ("nodes", "approve-routes", "--identifier", "2", "--routes")
    assert server.ok(*approve, "10.1.0.0/16,0.0.0.0/0") == "Node updated\n"
    assert server.ok("nodes", "list-routes") == golden("nodes-list-routes")
    assert server.ok("nodes", "lsr", "-i", "2") == server.ok("nodes", "routes")
    assert server.ok(*approve, "10.1.0.0/16") == "Node updated\n"
    (router,) = json.loads(server.ok("nodes", "list-routes", "-o", "json"))
    assert router["approvedRoutes"] == router["subnetRoutes"] == ["10.1.0.0/16"]
    assert server.ok(*approve, "10.9.0.0/16", "--force") == "Node updated\n"
    assert server.ok(*approve, "10.9.0.0/16") == "Node updated\n", "what is approved may stay"
    (router,) = json.loads(server.ok("nodes", "list-routes", "-o", "json"))
    assert (router["approvedRoutes"], router["subnetRoutes"]) == (["10.9.0.0/16"], [])
    assert server.ok(*approve, "") == "Node updated\n"
    (router,) = json.loads(server.ok("nodes", "list-routes", "-o", "json"))
    assert router["approvedRoutes"] == []


def test_health_and_version(populated: Any) -> None:
    assert populated.ok("health") == "The coordinator and its database answer\n"
    assert json.loads(populated.ok("health", "-o", "json")) == {"databaseConnectivity": True}
    assert yaml.safe_load(populated.ok("health", "-o", "yaml")) == {"databaseconnectivity": True}
    assert re.match(r"coordinator version \d+\.\d+\.\d+\n", populated.ok("version"))
    assert set(json.loads(populated.ok("version", "-o", "json"))) == {"version", "python"}


def test_the_socket_can_be_named_without_a_configuration(populated: Any, coordinator: Any) -> None:
    named = coordinator("users", "list", "--socket", str(populated.socket))
    by_environment = coordinator("users", "list", environment={"COORDINATOR_SOCKET": str(populated.socket)})
    assert named == by_environment
    assert (named.status, named.err) == (0, "")
    assert named.out == populated.ok("users", "list"), "a process of its own prints the same"
    other = {"COORDINATOR_SOCKET": "/nonexistent"}
    assert coordinator("--socket", str(populated.socket), "users", "list", environment=other) == named


def test_a_command_waits_for_a_server_that_is_starting(stopped: Any) -> None:
    stopped.start(wait=False)
    assert stopped.ok("users", "list") == "ID | Name | Username | Email | Created\n"


def test_what_was_acknowledged_is_there_after_a_restart(server: Any) -> None:
    server.ok("users", "create", "ana")
    server.process.kill()
    server.process.wait()
    assert server.socket.exists(), "left behind by the kill"
    server.start()
    assert " ana " in server.ok("users", "list")


def test_commands_do_not_load_what_only_the_server_needs(populated: Any) -> None:
    script = (
        "import sys; from coordinator.cli.root import run; "
        f"run(['users', 'list', '--config', {str(populated.config)!r}]); "
        "heavy = {'aiohttp', 'sqlalchemy', 'alembic', 'asyncio', 'rich', 'uvloop'} & set(sys.modules); "
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_output_into_a_pipe_that_closes_is_no_traceback(populated: Any) -> None:
    line = f"{sys.executable} -m coordinator nodes list -c {populated.config} | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.stderr == ""
