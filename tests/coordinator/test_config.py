"""The configuration: Headscale's keys, and each mistake named with its key and the fix."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
import yaml

from coordinator import config as config_module
from coordinator.config import Config, load, parse
from coordinator.dns_config import DnsConfig
from coordinator.errors import StartupError
from coordinator.relay_config import RelayConfig
from derp.listen import ListenAddress

PATH = Path("/etc/coordinator/config.yaml")

FULL = """
server_url: https://vpn.example.org/
listen_addr: 127.0.0.1:8081
noise:
  private_key_path: noise.key
prefixes:
  v4: 100.64.0.0/16
  v6: fd7a:115c:a1e0::/64
  allocation: random
database:
  type: sqlite
  sqlite:
    path: /srv/db.sqlite
    write_ahead_log: true
unix_socket: /run/x.sock
unix_socket_permission: "0700"
ephemeral_node_inactivity_timeout: 30m
node:
  expiry: 180d
dns:
  base_domain: mesh.example.net
  magic_dns: false
log:
  level: debug
  format: json
cli:
  timeout: 10s
"""


def parsed(text: str) -> Config:
    return parse(yaml.safe_load(text), PATH)


def problems(text: str) -> list[str]:
    with pytest.raises(StartupError) as refused:
        parsed(text)
    lines = str(refused.value).splitlines()
    prefix = f"configuration {PATH}: "
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_every_key() -> None:
    assert parsed(FULL) == Config(
        server_url="https://vpn.example.org",
        listen_addr=ListenAddress("127.0.0.1", 8081),
        noise_private_key_path=PATH.parent / "noise.key",
        database_path=Path("/srv/db.sqlite"),
        prefix_v4=ip_network("100.64.0.0/16"),  # type: ignore[arg-type]
        prefix_v6=ip_network("fd7a:115c:a1e0::/64"),  # type: ignore[arg-type]
        random_allocation=True,
        unix_socket=Path("/run/x.sock"),
        unix_socket_permission=0o700,
        ephemeral_inactivity_timeout=timedelta(minutes=30),
        node_expiry=timedelta(days=180),
        dns=DnsConfig(base_domain="mesh.example.net", magic_dns=False),
        log_level="debug",
        log_format="json",
        cli_timeout=10.0,
    )


def test_without_a_file_the_defaults_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config_module, "DEFAULT_PATH", tmp_path / "config.yaml")
    config = load()
    assert config == Config()
    assert str(config.listen_addr) == "0.0.0.0:8080"
    assert config.database_file == Path("/var/lib/coordinator/db.sqlite")
    assert config.private_key_file == Path("/var/lib/coordinator/noise_private.key")
    (tmp_path / "config.yaml").write_text("listen_addr: 127.0.0.1:1\n")
    assert load().listen_addr == ListenAddress("127.0.0.1", 1)


@pytest.mark.parametrize("text", ["", "# nothing\n", "dns:\n"])
def test_an_empty_file_means_the_defaults(text: str) -> None:
    assert parsed(text) == Config()


def test_relative_paths_belong_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("state_dir: state\nunix_socket: c.sock\ndatabase: {sqlite: {path: d/x.sqlite}}\n")
    config = load(file)
    assert config.state_dir == tmp_path / "state"
    assert config.unix_socket == tmp_path / "c.sock"
    assert config.database_file == tmp_path / "d/x.sqlite"
    assert config.private_key_file == tmp_path / "state/noise_private.key"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("listen_adr: x", "unknown key listen_adr; did you mean listen_addr?"),
        ("prefixes: {ipv4: 10.0.0.0/8}", "unknown key prefixes.ipv4; did you mean prefixes.v4?"),
        ("zzz: 1", "unknown key zzz; remove it"),
        ("dns: 1", "dns: expected a section with keys below it, not 1"),
        (
            "server_url: vpn.example.org",
            "server_url: expected a URL such as https://vpn.example.org, not 'vpn.example.org'",
        ),
        (
            "server_url: 'http://[::1'",
            "server_url: expected a URL such as https://vpn.example.org, not 'http://[::1'",
        ),
        ("server_url: http://x/y", "server_url: expected a URL without a path, not 'http://x/y'"),
        ("listen_addr: 8080", "listen_addr: expected ADDRESS:PORT such as 0.0.0.0:8080, not 8080"),
        (
            "listen_addr: '0.0.0.0:99999'",
            "listen_addr: expected ADDRESS:PORT such as 0.0.0.0:8080, not '0.0.0.0:99999'",
        ),
        ("listen_addr: 'vpn:80'", "listen_addr: expected ADDRESS:PORT such as 0.0.0.0:8080, not 'vpn:80'"),
        (
            "prefixes: {v4: 'fd00::/8'}",
            "prefixes.v4: expected an IPv4 prefix such as 100.64.0.0/10, not 'fd00::/8'",
        ),
        (
            "prefixes: {v4: 100.64.0.1/10}",
            "prefixes.v4: expected a prefix such as 100.64.0.0/10 (100.64.0.1/10 has host bits "
            "set), not '100.64.0.1/10'",
        ),
        ("prefixes: {v4: '', v6: ''}", "prefixes: at least one of v4 and v6 is needed"),
        ("prefixes: {allocation: best}", "prefixes.allocation: expected sequential or random, not 'best'"),
        (
            "unix_socket_permission: 999",
            'unix_socket_permission: expected an octal mode in quotes, such as "0770", not 999',
        ),
        (
            "node: {expiry: 3 days}",
            "node.expiry: expected a duration with units, such as 30m or 1h30m, not '3 days'",
        ),
        (
            "node: {expiry: true}",
            "node.expiry: expected a duration with units, such as 30m or 1h30m, not True",
        ),
        (
            "ephemeral_node_inactivity_timeout: 1m",
            "ephemeral_node_inactivity_timeout: expected more than 65s, or nodes would be removed "
            "between two keep-alives, not '1m'",
        ),
        (
            "dns: {base_domain: mesh.test.}",
            "dns.base_domain: expected a domain without a dot at the end, such as mesh.example.org, "
            "not 'mesh.test.'",
        ),
        ("database: {type: postgres}", "database.type: this version stores in sqlite only; set it to sqlite"),
        (
            "policy: {path: /etc/acl}",
            "policy.path: this version has no policy and allows everything; remove it",
        ),
        (
            "tls_cert_path: /x",
            "tls_cert_path: this version does not speak TLS; remove it and put a reverse proxy in front",
        ),
        ("oidc: {issuer: 'https://x'}", "oidc: this version has no OIDC login; remove the section"),
        (
            "{server_url: 'https://vpn.mesh.test', dns: {base_domain: mesh.test}}",
            "dns.base_domain: mesh.test holds the coordinator's own name vpn.mesh.test; nodes would "
            "look it up among themselves: use another domain",
        ),
    ],
)
def test_mistakes(text: str, problem: str) -> None:
    assert problems(text) == [problem]


def test_all_mistakes_at_once() -> None:
    assert len(problems("listen_adr: x\nserver_url: y\nnode: {expiry: z}\n")) == 3


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n"])
def test_no_mapping(text: str) -> None:
    assert problems(text) == ["expected `key: value` lines at the top"]


def test_no_yaml(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: 1\nb: [\n")
    with pytest.raises(StartupError, match=r"config\.yaml is not YAML: line 3: "):
        load(file)
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(StartupError, match="is not YAML"):
        load(file)
    with pytest.raises(StartupError, match="No such file or directory; give another file with --config"):
        load(tmp_path / "nothing.yaml")


def test_what_has_no_effect_is_warned_of() -> None:
    config = parsed(
        "metrics_listen_addr: 127.0.0.1:9090\ntaildrop: {enabled: true}\nlogtail: {enabled: false}\n"
        "trusted_proxies: []\npolicy: {mode: file, path: ''}\ntls_cert_path: ''\n"
    )
    assert config.warnings == (
        "metrics_listen_addr has no effect in this version",
        "taildrop has no effect in this version",
        "logtail has no effect in this version",
    )


def test_foreign_prefixes_are_warned_of() -> None:
    (warning,) = parsed("prefixes: {v4: 10.0.0.0/8}").warnings
    assert warning.startswith("prefixes.v4: 10.0.0.0/8 is outside 100.64.0.0/10")


def test_naming_one_family_means_only_that_one() -> None:
    assert parsed("prefixes: {v4: 100.64.0.0/16}").prefix_v6 is None
    assert parsed("prefixes: {allocation: random}").prefix_v6 is not None


@pytest.mark.parametrize(
    ("written", "mode"), [('"0770"', 0o770), ("0700", 0o700), ('"660"', 0o660), ('"0o600"', 0o600)]
)
def test_socket_modes(written: str, mode: int) -> None:
    assert parsed(f"unix_socket_permission: {written}").unix_socket_permission == mode


@pytest.mark.parametrize(
    ("written", "host", "port", "is_any"),
    [
        (":8080", "", 8080, True),
        ("0.0.0.0:80", "0.0.0.0", 80, True),
        ("'[::]:80'", "::", 80, True),
        ("'[::1]:80'", "::1", 80, False),
        ("localhost:80", "localhost", 80, False),
    ],
)
def test_listen_addresses(written: str, host: str, port: int, is_any: bool) -> None:
    address = parsed(f"listen_addr: {written}").listen_addr
    assert (address.host, address.port, address.is_any) == (host, port, is_any)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("0", 0), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("2w", 1_209_600), ("500ms", 0.5)],
)
def test_durations(written: str, seconds: float) -> None:
    assert parsed(f"cli: {{timeout: {written}}}").cli_timeout == seconds


RELAYS = """
derp:
  server:
    enabled: true
    region_id: 901
    region_code: home
    region_name: At home
    stun_listen_addr: 192.0.2.1:3478
    stun_alternate_listen_addr: ""
    private_key_path: relay.key
    verify_clients: false
    automatically_add_embedded_derp_region: false
    ipv4: 192.0.2.1
    ipv6: 2001:db8::1
  urls: [https://relays.example/map.json]
  paths: [relays.yaml, /srv/more.yaml]
  auto_update_enabled: false
  update_frequency: 24h
"""


def test_every_key_of_relays() -> None:
    config = parsed(RELAYS)
    assert config.relay == RelayConfig(
        is_enabled=True,
        region_id=901,
        region_code="home",
        region_name="At home",
        stun_listen_addr=ListenAddress("192.0.2.1", 3478),
        stun_alternate_listen_addr=None,
        private_key_path=PATH.parent / "relay.key",
        verifies_clients=False,
        adds_region=False,
        ipv4="192.0.2.1",
        ipv6="2001:db8::1",
        urls=("https://relays.example/map.json",),
        paths=(PATH.parent / "relays.yaml", Path("/srv/more.yaml")),
        updates=False,
        update_frequency=timedelta(hours=24),
    )
    assert config.relay_private_key_file == PATH.parent / "relay.key"
    assert not config.warnings


def test_without_configuration_there_is_a_relay() -> None:
    relay = Config().relay
    assert (relay.is_enabled, relay.region_id, relay.verifies_clients) == (True, 999, True)
    assert (str(relay.stun_listen_addr), str(relay.stun_alternate_listen_addr)) == (
        "0.0.0.0:3478",
        "0.0.0.0:3479",
    )
    assert relay.stun_listen_addr.is_any


@pytest.mark.parametrize(
    "text",
    [
        "derp: {server: {enabled: false}}",
        "derp: {server: {automatically_add_embedded_derp_region: false}, paths: []}",
    ],
)
def test_no_relay_at_all_is_warned_of(text: str) -> None:
    (warning,) = parsed(text).warnings
    assert warning.startswith("derp: there is no relay")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("server: {enabled: 1}", "server.enabled: expected true or false, not 1"),
        (
            "server: {region_id: 70000}",
            "server.region_id: expected a number between 1 and 65535; 900 to 999 are free for own regions, "
            "not 70000",
        ),
        ("server: {region_code: ''}", "server.region_code: expected a name, not ''"),
        (
            "server: {stun_listen_addr: 3478}",
            "server.stun_listen_addr: expected ADDRESS:PORT such as 0.0.0.0:8080, not 3478",
        ),
        (
            "server: {ipv4: '2001:db8::1'}",
            "server.ipv4: expected an IPv4 address such as 198.51.100.1, not '2001:db8::1'",
        ),
        ("server: {ipv6: x}", "server.ipv6: expected an IPv6 address such as 2001:db8::1, not 'x'"),
        (
            "urls: [x]",
            "urls: expected a list of URLs such as https://controlplane.tailscale.com/derpmap/default, "
            "not ['x']",
        ),
        ("paths: x.yaml", "paths: expected a list, not 'x.yaml'"),
        ("update_frequency: 5s", "update_frequency: expected a minute or more, such as 3h, not '5s'"),
    ],
)
def test_mistakes_about_relays(text: str, problem: str) -> None:
    assert problems(f"derp: {{{text}}}") == [f"derp.{problem}"]
