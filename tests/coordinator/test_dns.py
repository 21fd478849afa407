"""DNS in maps: what each configuration key becomes, and records that change while nodes are connected."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator import dns_records
from coordinator.config import Config, parse
from coordinator.dns_config import DnsConfig
from coordinator.dns_settings import DnsSettings, is_nextdns, reverse_zones
from coordinator.errors import StartupError
from meshproto.messages import DNSConfig, DNSRecord, Hostinfo, Resolver
from meshproto.routes import CGNAT_RANGE, ULA_RANGE
from tests.coordinator.conftest import Server
from tests.coordinator.records import node

PATH = Path("/etc/coordinator/config.yaml")
PRINTER = DNSRecord(name="printer.corp.test", type="A", value="192.0.2.7")


def told(dns: str, *attributes: str, **fields: Any) -> DNSConfig:
    """What node 1 is told by a configuration with this section `dns`."""
    settings = parse(yaml.safe_load(f"dns: {dns}"), PATH).network.dns
    return settings.config_for(node(1, **fields), attributes)


def problem(dns: str, server_url: str = "https://vpn.test") -> str:
    with pytest.raises(StartupError) as refused:
        parse({"server_url": server_url, "dns": yaml.safe_load(dns)}, PATH)
    return str(refused.value).removeprefix(f"configuration {PATH}: ")


def addresses(resolvers: tuple[Resolver, ...] | None) -> list[str]:
    return [resolver.addr for resolver in resolvers or ()]


def test_magic_dns_is_on_by_default_and_answers_for_names_and_addresses() -> None:
    config = told("{}")
    assert config.proxied
    assert config.domains == ("mesh.internal",)
    assert config.resolvers == config.fallback_resolvers == ()
    assert len(config.routes) == 65
    assert {"64.100.in-addr.arpa", "127.100.in-addr.arpa"} <= config.routes.keys()
    assert config.routes["0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa"] == ()


def test_without_magic_dns_nodes_are_told_of_no_reverse_zones() -> None:
    config = told("{magic_dns: false, base_domain: ''}")
    assert (config.proxied, config.domains, config.routes) == (False, (), {})


def test_global_nameservers_replace_local_ones_or_stand_behind_them() -> None:
    servers = "nameservers: {global: [1.1.1.1, '2606:4700::1111', '9.9.9.9:9953']}"
    expected = ["1.1.1.1", "2606:4700::1111", "9.9.9.9:9953"]
    assert addresses(told(f"{{{servers}}}").resolvers) == expected
    assert addresses(told(f"{{override_local_dns: true, {servers}}}").resolvers) == expected
    config = told(f"{{override_local_dns: false, {servers}}}")
    assert config.resolvers == ()
    assert addresses(config.fallback_resolvers) == expected


def test_split_dns_goes_beside_the_reverse_zones() -> None:
    config = told("{nameservers: {split: {Corp.Test.: [10.0.0.1, 10.0.0.2], local.test: []}}}")
    assert addresses(config.routes["corp.test"]) == ["10.0.0.1", "10.0.0.2"]
    assert config.routes["local.test"] == ()
    assert "100.100.in-addr.arpa" in config.routes


def test_search_domains_follow_the_base_domain() -> None:
    assert told("{base_domain: mesh.test, search_domains: [corp.test, mesh.test]}").domains == (
        "mesh.test",
        "corp.test",
    )


def test_lists_may_be_text_as_environment_variables_are() -> None:
    config = told("{nameservers: {global: '1.1.1.1 8.8.8.8'}, search_domains: 'a.test,b.test'}")
    assert addresses(config.resolvers) == ["1.1.1.1", "8.8.8.8"]
    assert config.domains == ("mesh.internal", "a.test", "b.test")


def test_extra_records() -> None:
    records = (
        "[{name: Printer.corp.test., type: A, value: 192.0.2.7}, {name: six.test, value: '2001:db8::1'}]"
    )
    assert told(f"{{extra_records: {records}}}").extra_records == (
        PRINTER,
        DNSRecord(name="six.test", value="2001:db8::1"),
    )


def test_nextdns_learns_which_device_asks() -> None:
    servers = "['https://dns.nextdns.io/abc?x=1', 1.1.1.1]"
    config = told(
        f"{{nameservers: {{global: {servers}, split: {{a.test: ['https://dns.nextdns.io/def']}}}}}}",
        hostname="Ana's PC",
        hostinfo=Hostinfo(os="linux"),
    )
    device = "device_ip=100.64.0.1&device_model=linux&device_name=Ana%27s+PC"
    assert addresses(config.resolvers) == [f"https://dns.nextdns.io/abc?{device}&x=1", "1.1.1.1"]
    assert addresses(config.routes["a.test"]) == [f"https://dns.nextdns.io/def?{device}"]


def test_nextdns_profiles_by_attribute() -> None:
    dns = "{nameservers: {global: ['https://dns.nextdns.io/abc?x=1']}}"
    quiet = "nextdns:no-device-info"
    assert addresses(told(dns, quiet).resolvers) == ["https://dns.nextdns.io/abc?x=1"]
    attributes = ("nextdns:zzz", "nextdns:bbb", "nextdns:a/../b", quiet)
    assert addresses(told(dns, *attributes).resolvers) == ["https://dns.nextdns.io/bbb"]
    assert addresses(told(dns, "nextdns:zzz").resolvers)[0].startswith(
        "https://dns.nextdns.io/zzz?device_ip="
    )


def test_only_nextdns_is_nextdns() -> None:
    assert is_nextdns("https://dns.nextdns.io")
    assert not is_nextdns("https://dns.nextdns.io.evil.test/abc")


def test_all_nodes_are_told_the_same_object() -> None:
    settings = DnsSettings(nameservers=("1.1.1.1",), extra_records=(PRINTER,))
    assert settings.config_for(node(1), ()) is settings.config_for(node(2), ())


@pytest.mark.parametrize(
    ("v4", "v6", "zones"),
    [
        (ip_network("10.20.30.0/24"), None, ("30.20.10.in-addr.arpa",)),
        (ip_network("10.0.0.0/8"), None, ("10.in-addr.arpa",)),
        (ip_network("10.20.0.0/15"), None, ("20.10.in-addr.arpa", "21.10.in-addr.arpa")),
        (ip_network("10.1.2.3/32"), None, ("3.2.1.10.in-addr.arpa",)),
        (None, ip_network("fd7a::/16"), ("a.7.d.f.ip6.arpa",)),
        (None, ip_network("fd7a:4000::/18"), tuple(f"{n}.a.7.d.f.ip6.arpa" for n in "4567")),
        (None, None, ()),
    ],
)
def test_reverse_zones(v4: IPv4Network | None, v6: IPv6Network | None, zones: tuple[str, ...]) -> None:
    assert reverse_zones(v4, v6) == zones


def test_reverse_zones_of_the_usual_prefixes() -> None:
    zones = reverse_zones(CGNAT_RANGE, ULA_RANGE)
    assert zones[:-1] == tuple(f"{n}.100.in-addr.arpa" for n in range(64, 128))
    assert zones[-1] == "0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa"


@pytest.mark.parametrize(
    ("dns", "expected"),
    [
        (
            "{base_domain: ''}",
            "dns.base_domain: needed for the names of nodes; set a domain such as mesh.example.org, or "
            "dns.magic_dns to false",
        ),
        ("{base_domain: vpn.test}", "dns.base_domain: vpn.test holds the coordinator's own name vpn.test"),
        ("{base_domain: test}", "dns.base_domain: test holds the coordinator's own name vpn.test"),
        ("{override_local_dns: true}", "dns.override_local_dns: true leaves nodes without any resolver"),
        (
            "{extra_records: [{name: a.test, value: 1.2.3.4}], extra_records_path: x.json}",
            "dns.extra_records_path: not together with dns.extra_records; remove one of them",
        ),
        ("{nameservers: {global: [dns.google]}}", "dns.nameservers.global: expected IP addresses, or URLs"),
        ("{nameservers: {split: [1.1.1.1]}}", "dns.nameservers.split: expected domains, each with a list"),
        ("{nameservers: {split: {'*.test': [1.1.1.1]}}}", "dns.nameservers.split: expected a domain name"),
        ("{search_domains: [a b]}", "dns.search_domains: expected a domain name"),
        ("{magic_dns: 'yes please'}", "dns.magic_dns: expected true or false"),
        (
            "{extra_records: [{name: a.test, type: CNAME, value: b.test}]}",
            "dns.extra_records: record 1: expected type A or AAAA for a.test",
        ),
        (
            "{extra_records: [{name: '*.test', type: A, value: 1.2.3.4}]}",
            "dns.extra_records: record 1: expected a name in full (clients know no wildcards such as *.test)",
        ),
        (
            "{extra_records: [{name: a.test, type: AAAA, value: 1.2.3.4}]}",
            "dns.extra_records: record 1: expected an IPv6 address for a.test, type AAAA",
        ),
        ("{extra_records: [{name: a.test, type: A}]}", "dns.extra_records: record 1: expected value as text"),
        (
            "{extra_records: [{name: a.test, value: 1.2.3.4, ttl: 5}]}",
            "dns.extra_records: record 1: expected records with name, type and value, and no ttl",
        ),
    ],
)
def test_mistakes_are_named_with_their_key(dns: str, expected: str) -> None:
    assert problem(dns).startswith(expected)


def test_a_name_that_only_ends_alike_is_no_contradiction() -> None:
    assert parse({"server_url": "https://myvpn.test", "dns": {"base_domain": "vpn.test"}}, PATH)


def write(path: Path, *records: DNSRecord) -> None:
    """As careful programs do: another file takes the place of the old one."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps([{"name": r.name, "type": r.type, "value": r.value} for r in records]))
    new.replace(path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[", "line 1: not JSON"),
        ("{}", "expected a list of records"),
        ('[{"name":"a.test","type":"TXT","value":"x"}]', "record 1: expected type A or AAAA"),
    ],
)
def test_a_wrong_file_keeps_the_coordinator_from_starting(
    tmp_path: Path, content: str, expected: str
) -> None:
    path = tmp_path / "records.json"
    path.write_text(content)
    with pytest.raises(StartupError, match=f"dns.extra_records_path: {path}.*{expected}"):
        dns_records.ExtraRecords(path)
    with pytest.raises(StartupError, match="No such file"):
        dns_records.ExtraRecords(tmp_path / "other.json")


def test_the_path_belongs_to_the_configuration_file() -> None:
    config = parse({"dns": {"extra_records_path": "records.json"}}, PATH)
    assert config.dns.extra_records_path == PATH.parent / "records.json"


async def test_a_changed_file_reaches_connected_nodes_and_only_dns_is_sent(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_records, "LOOK_S", 0.05)
    path = tmp_path / "records.json"
    write(path, PRINTER)
    await server.stop()
    server.configure(dns=DnsConfig(base_domain="mesh.test", extra_records_path=path))
    await server.start()
    _, _, poll = await server.join("laptop")
    assert poll.map.dns is not None
    assert poll.map.dns.extra_records == (PRINTER,)
    assert poll.map.dns.proxied
    assert poll.map.dns.domains == ("mesh.test",)

    second = DNSRecord(name="wiki.corp.test", type="A", value="192.0.2.8")
    write(path, PRINTER, second)
    message = await poll.next()
    assert message is not None
    assert message.dns_config is not None
    assert message.dns_config.extra_records == (PRINTER, second)
    assert (message.node, message.peers_changed, message.packet_filters) == (None, (), None)

    path.write_text("")
    assert await poll.is_quiet()
    path.write_text("[broken")
    assert await poll.is_quiet()
    path.unlink()
    assert await poll.is_quiet()
    write(path, second)
    await poll.until(lambda map: map.dns.extra_records == (second,))


async def test_the_same_records_written_again_are_no_news(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_records, "LOOK_S", 0.05)
    path = tmp_path / "records.json"
    write(path, PRINTER)
    await server.stop()
    server.configure(dns=DnsConfig(base_domain="mesh.test", extra_records_path=path))
    await server.start()
    _, _, poll = await server.join("laptop")
    write(path, PRINTER)
    assert await poll.is_quiet()


async def test_a_node_that_is_renamed_by_its_owner_is_told_its_new_nextdns_url(server: Server) -> None:
    await server.stop()
    server.configure(dns=DnsConfig(base_domain="mesh.test", nameservers=("https://dns.nextdns.io/abc",)))
    await server.start()
    machine, connection, poll = await server.join("laptop")
    machine.hostinfo = Hostinfo(hostname="notebook", os="linux")
    await machine.report(connection)
    await poll.until(lambda map: "device_name=notebook" in map.dns.resolvers[0].addr)


def test_the_whole_default_configuration_is_told() -> None:
    assert Config().network.dns.shared.proxied
