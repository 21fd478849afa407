"""The daemon's configuration: flags over file over defaults, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshnode import config as config_module
from meshnode.config import DaemonConfig, InvalidConfig, load_config


@pytest.fixture(autouse=True)
def _no_default_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config_module, "DEFAULT_FILE", tmp_path / "default.yaml")


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("tun: mesh7\nport: 1234\nstate_dir: /srv/meshnode\nverbose: true\nspray: false\n")
    assert load_config(file, {"port": 0, "tun": None, "port_mapping": False}) == DaemonConfig(
        state_dir=Path("/srv/meshnode"), tun="mesh7", port=0, port_mapping=False, spray=False, verbose=True
    )


def test_the_default_file_is_read_where_it_exists(tmp_path: Path) -> None:
    assert load_config(None, {}) == DaemonConfig()
    (tmp_path / "default.yaml").write_text("")
    assert load_config(None, {}) == DaemonConfig()
    (tmp_path / "default.yaml").write_text("port: 7")
    assert load_config(None, {}).port == 7


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(None, {"state_dir": "x", "socket": "y"}).state_dir == tmp_path / "x"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("prot: 1", "prot"),
        ("port: x", "port must be a number"),
        ("port: true", "port must be a number"),
        ("tun: 7", "tun must be a text"),
        ("verbose: maybe", "verbose must be true or false"),
        ("- port", "name: value"),
        ("[", "YAML"),
        ("port: 70000", "--port"),
        ("mtu: 100", "--mtu"),
        ("tun: a/b", "--tun"),
    ],
)
def test_a_wrong_file_is_named_with_its_mistake(tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(content)
    with pytest.raises(InvalidConfig, match=says) as raised:
        load_config(file, {})
    assert "\n" not in str(raised.value)
