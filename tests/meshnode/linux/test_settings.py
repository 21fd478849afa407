"""Kernel settings: what is planned, what is written, and what comes back. Against a tree of files."""

from __future__ import annotations

import errno
import json
import stat
from pathlib import Path

import pytest

from meshnode.linux.journal import Journal, JournalDamaged
from meshnode.linux.router_config import RouterConfig
from meshnode.linux.sysctl import Settings, SysctlKeeper, check_forwarding, dotted
from meshnode.linux.sysctl_plan import SettingChange
from tests.meshnode.linux.configurations import CONFIGURATIONS, PEERS, nets

SERVING = CONFIGURATIONS["serve_subnet"]
EXITING = CONFIGURATIONS["exit_node"]


class FakeSettings(Settings):
    """Files that behave as the kernel's where writing one changes others."""

    def __init__(self, root: Path, interfaces: tuple[str, ...] = ("eth0", "eth1", "mesh0")) -> None:
        super().__init__(root)
        self.root = root
        self.written: list[str] = []
        for name in ("all", "default", "lo", *interfaces):
            for key, value in (("forwarding", "0"), ("rp_filter", "0"), ("src_valid_mark", "0")):
                self.put(f"net/ipv4/conf/{name}/{key}", value)
            for key, value in (("forwarding", "0"), ("accept_ra", "1"), ("addr_gen_mode", "0")):
                self.put(f"net/ipv6/conf/{name}/{key}", value)
        self.put("net/ipv4/conf/all/accept_redirects", "1")
        self.put("net/ipv4/ip_forward", "0")

    def put(self, key: str, value: str) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def write(self, key: str, value: str) -> None:
        self.written.append(f"{key}={value}")
        self.put(key, value)
        if key == "net/ipv4/ip_forward":
            self.put("net/ipv4/conf/all/accept_redirects", "0" if value == "1" else "1")
        if key in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            version = 4 if "ipv4" in key else 6
            for name in self.interfaces(version):
                self.put(f"net/ipv{version}/conf/{name}/forwarding", value)

    def dump(self) -> dict[str, str]:
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): path.read_text().strip() for path in files}


@pytest.fixture
def settings(tmp_path: Path) -> FakeSettings:
    return FakeSettings(tmp_path / "sys")


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def keeper(settings: Settings, state_dir: Path) -> SysctlKeeper:
    return SysctlKeeper("mesh0", state_dir, settings)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_everything_comes_back(settings: FakeSettings, state_dir: Path, name: str) -> None:
    settings.put("net/ipv4/conf/eth1/forwarding", "1")
    settings.put("net/ipv6/conf/default/forwarding", "1")
    settings.put("net/ipv4/conf/all/accept_redirects", "0")
    settings.put("net/ipv4/conf/eth0/rp_filter", "1")
    before = settings.dump()
    keeper(settings, state_dir).set(CONFIGURATIONS[name])
    keeper(settings, state_dir).set(RouterConfig())
    assert settings.dump() == before
    assert not (state_dir / "sysctl-mesh0.json").exists()


def test_the_journal_is_on_disk_before_the_setting_is_written(
    settings: FakeSettings, state_dir: Path
) -> None:
    class Crash(Exception):
        pass

    def crash(key: str, value: str) -> None:
        if key == "net/ipv4/ip_forward":
            raise Crash

    settings.write = crash  # type: ignore[method-assign]
    with pytest.raises(Crash):
        keeper(settings, state_dir).set(SERVING)
    remembered = json.loads((state_dir / "sysctl-mesh0.json").read_text())["entries"]
    assert {"group": "forwarding-4", "key": "net/ipv4/ip_forward", "old": "0", "written": "1"} in remembered
    del settings.write
    keeper(settings, state_dir).set(RouterConfig())
    assert settings.written == []  # the write never happened, so there is nothing to put back


def test_only_the_served_families_are_turned_on(settings: FakeSettings, state_dir: Path) -> None:
    only_4 = RouterConfig(
        addresses=SERVING.addresses, routes=PEERS, subnet_routes=nets("10.0.0.0/8"), exit_node_offered=False
    )
    keeper(settings, state_dir).set(only_4)
    assert settings.read("net/ipv4/ip_forward") == "1"
    assert settings.read("net/ipv6/conf/all/forwarding") == "0"


def test_router_advertisements_stay_welcome(settings: FakeSettings, state_dir: Path) -> None:
    """Before forwarding is on, or the kernel has dropped the default route already."""
    settings.put("net/ipv6/conf/eth1/accept_ra", "0")
    keeper(settings, state_dir).set(SERVING)
    changes = [line for line in settings.written if "ipv6" in line]
    assert changes == [
        "net/ipv6/conf/mesh0/addr_gen_mode=1",
        "net/ipv6/conf/eth0/accept_ra=2",
        "net/ipv6/conf/all/forwarding=1",
    ]


def test_a_new_interface_gets_router_advertisements_too(settings: FakeSettings, state_dir: Path) -> None:
    keeper(settings, state_dir).set(SERVING)
    settings.put("net/ipv6/conf/usb0/accept_ra", "1")
    settings.put("net/ipv6/conf/usb0/forwarding", "1")
    assert keeper(settings, state_dir).set(SERVING).changes == ["sysctl net.ipv6.conf.usb0.accept_ra=2"]
    keeper(settings, state_dir).set(RouterConfig())
    assert settings.read("net/ipv6/conf/usb0/accept_ra") == "1"


def test_a_host_without_ipv6_is_left_at_that(settings: FakeSettings, state_dir: Path, tmp_path: Path) -> None:
    (settings.root / "net/ipv6").rename(tmp_path / "gone")
    keeper(settings, state_dir).set(CONFIGURATIONS["serve_exit_node"])
    assert settings.read("net/ipv4/ip_forward") == "1"


def test_where_marks_are_valid_everywhere_nothing_is_changed(settings: FakeSettings, state_dir: Path) -> None:
    settings.put("net/ipv4/conf/all/rp_filter", "1")
    settings.put("net/ipv4/conf/all/src_valid_mark", "1")
    keeper(settings, state_dir).set(EXITING)
    assert not any("src_valid_mark" in line for line in settings.written)


def test_a_loose_interface_is_loose_though_the_rest_is_strict(
    settings: FakeSettings, state_dir: Path
) -> None:
    settings.put("net/ipv4/conf/all/rp_filter", "1")
    settings.put("net/ipv4/conf/eth1/rp_filter", "2")
    keeper(settings, state_dir).set(EXITING)
    assert [line for line in settings.written if "src_valid_mark" in line] == [
        "net/ipv4/conf/eth0/src_valid_mark=1"
    ]


def test_a_group_that_cannot_be_written_does_not_stop_the_others(
    settings: FakeSettings, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(key: str, value: str) -> None:
        if "ipv4" in key:
            raise OSError(errno.EROFS, "Read-only file system", key)
        FakeSettings.write(settings, key, value)

    monkeypatch.setattr(settings, "write", read_only)
    applied = keeper(settings, state_dir).set(SERVING)
    assert set(applied.failures) == {"forwarding-4"}
    assert settings.read("net/ipv6/conf/all/forwarding") == "1"


def test_warnings_name_the_family_and_the_command(settings: FakeSettings) -> None:
    assert check_forwarding(CONFIGURATIONS["peers"], settings) == []
    ipv4, ipv6 = check_forwarding(SERVING, settings)
    assert "IPv4" in ipv4
    assert ipv4.endswith("sysctl -w net.ipv4.ip_forward=1")
    assert "IPv6" in ipv6
    assert ipv6.endswith("sysctl -w net.ipv6.conf.all.forwarding=1")
    settings.write("net/ipv4/ip_forward", "1")
    settings.write("net/ipv6/conf/all/forwarding", "1")
    assert check_forwarding(SERVING, settings) == []


def test_interfaces_with_dots_are_written_as_sysctl_takes_them() -> None:
    assert dotted("net/ipv4/conf/eth0.7/forwarding") == "net.ipv4.conf.eth0/7.forwarding"


# The journal

ENTRY = SettingChange("group", "net/key", "0", "1")


def test_the_journal_outlives_its_writer_and_goes_with_its_last_entry(tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.json"
    journal = Journal(path, "here")
    journal.add([ENTRY, SettingChange("other", "net/other", "a", "b")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = Journal(path, "here")
    assert again.of("group") == (ENTRY,)
    again.forget("group")
    assert Journal(path, "here").of("group") == ()
    again.forget("other")
    assert not path.exists()


def test_the_first_old_value_is_the_one_to_go_back_to(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json", "here")
    journal.add([ENTRY])
    journal.add([SettingChange("group", "net/key", "1", "2")])
    assert journal.entries == (ENTRY,)


def test_entries_of_another_boot_or_namespace_are_worth_nothing(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.json", "boot-1/namespace").add([ENTRY])
    assert Journal(tmp_path / "journal.json", "boot-2/namespace").entries == ()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2, "where": "here", "entries": []}'])
def test_a_damaged_journal_is_kept_and_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.json"
    path.write_bytes(content)
    with pytest.raises(JournalDamaged, match=r"journal\.json"):
        Journal(path, "here")
    assert path.read_bytes() == content
