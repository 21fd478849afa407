"""Our WireGuard against Debian's `wireguard-go`, over real sockets and TUN devices.

Both sides get the other's key; which of them has the other's address decides who initiates.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from meshnode.dataplane import DropReason
from meshproto.keys import NodePrivate, NodePublic
from tests.interop.our_peer import OurPeer, PeerOptions
from tests.netlab import Host, Lab, PingResult, UdpDatagram, wait_for
from tests.netlab.wireguard_go import WireGuardGo

pytestmark = pytest.mark.interop

PORT = 51820
OUTER = {"IPv4": ("192.0.2.1", "192.0.2.2"), "IPv6": ("2001:db8::1", "2001:db8::2")}
OUR_INNER, THEIR_INNER = ("10.9.0.1", "fd09::1"), ("10.9.0.2", "fd09::2")
INITIATION, RESPONSE, COOKIE_REPLY, DATA = 1, 2, 3, 4
INITIATION_SIZE = 148


def hosts_and_prefixes(addresses: tuple[str, str]) -> tuple[str, str]:
    return f"{addresses[0]}/32", f"{addresses[1]}/128"


def with_port(address: str) -> str:
    return f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"


@dataclass
class Pair:
    """Our peer and theirs on one LAN, and an attacker who can reach both. Nothing runs before `start`."""

    lab: Lab
    timings: Mapping[str, float] = field(default_factory=dict)
    our_keepalive: int = 0
    their_keepalive: int = 0

    def __post_init__(self) -> None:
        lan = self.lab.lan("lan")
        self.our_host, self.their_host, self.attacker = (
            self.lab.host(name) for name in ("ours", "theirs", "attacker")
        )
        for number, host in enumerate((self.our_host, self.their_host, self.attacker), 1):
            lan.attach(host, f"192.0.2.{number}/24", f"2001:db8::{number}/64")
        self.ours = OurPeer(self.our_host, timings=self.timings)
        self.their_private = NodePrivate.generate(os.urandom)
        self.theirs = WireGuardGo(
            self.their_host, base64.b64encode(self.their_private.raw).decode(), port=PORT
        )

    @property
    def their_key(self) -> NodePublic:
        return self.their_private.public

    def start(
        self,
        *,
        initiator: str = "ours",
        outer: str = "IPv4",
        our_psk: bytes | None = None,
        their_psk: bytes | None = None,
    ) -> None:
        """Bring both up. The initiator (`ours`, `theirs` or `both`) is who knows the other's address."""
        self.configure_ours(initiator=initiator, outer=outer, psk=our_psk)
        self.start_ours()
        self.start_theirs(initiator=initiator, outer=outer, psk=their_psk)

    def configure_ours(
        self, *, initiator: str = "ours", outer: str = "IPv4", psk: bytes | None = None
    ) -> None:
        endpoints = ((OUTER[outer][1], PORT),) if initiator in ("ours", "both") else ()
        options = PeerOptions(hosts_and_prefixes(THEIR_INNER), endpoints, psk, self.our_keepalive)
        self.ours.set_peer(self.their_key, options)

    def start_ours(self) -> None:
        self.ours.start([f"{OUR_INNER[0]}/24", f"{OUR_INNER[1]}/64"])

    def start_theirs(
        self, *, initiator: str = "theirs", outer: str = "IPv4", psk: bytes | None = None
    ) -> None:
        self.theirs.start([f"{THEIR_INNER[0]}/24", f"{THEIR_INNER[1]}/64"])
        self.theirs.set_peer(
            self.ours.public_key.base64(),
            hosts_and_prefixes(OUR_INNER),
            endpoint=with_port(OUTER[outer][0]) if initiator in ("theirs", "both") else None,
            preshared_key=base64.b64encode(psk).decode() if psk else None,
            keepalive=self.their_keepalive,
        )

    def side(self, who: str) -> tuple[Host, tuple[str, str]]:
        """The host of a side and the other's inner addresses."""
        return (self.our_host, THEIR_INNER) if who == "ours" else (self.their_host, OUR_INNER)

    def assert_traffic(self, who: str = "ours") -> None:
        """Pings from one side, small and full-sized, over both inner families, are all answered."""
        host, (v4, v6) = self.side(who)
        wait_for(lambda: host.reaches(v4), 10, what="the first answer")
        for address, header in ((v4, 28), (v6, 48)):
            size = str(self.ours.mtu - header)
            assert host.ping(address, count=5, interval=0.05) == PingResult(5, 5)
            host.run("ping", "-n", "-q", "-c", "3", "-i", "0.05", "-M", "do", "-s", size, address)

    def their_view(self) -> object:
        return self.theirs.peer(self.ours.public_key.base64())


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Lab("interop") as lab:
        yield Pair(lab)


@pytest.mark.parametrize("outer", ["IPv4", "IPv6"])
@pytest.mark.parametrize("initiator", ["ours", "theirs"])
def test_either_side_initiates_over_either_family(pair: Pair, initiator: str, outer: str) -> None:
    pair.start(initiator=initiator, outer=outer)
    pair.assert_traffic(initiator)
    pair.assert_traffic("theirs" if initiator == "ours" else "ours")
    assert "latest handshake: " in pair.theirs.show()
    view = pair.theirs.peer(pair.ours.public_key.base64())
    assert view.endpoint == with_port(OUTER[outer][0])
    stats = pair.ours.peer(pair.their_key)
    assert abs(stats["last_handshake"] - view.latest_handshake) <= 2
    assert stats["rx_bytes"] == pytest.approx(view.sent_bytes, rel=0.1)
    assert stats["tx_bytes"] == pytest.approx(view.received_bytes, rel=0.1)


def test_both_sides_initiate_at_once(pair: Pair) -> None:
    pair.start(initiator="both")
    pings = [
        pair.side(who)[0].popen("ping", "-n", "-c", "20", "-i", "0.1", pair.side(who)[1][0])
        for who in ("ours", "theirs")
    ]
    for ping in pings:
        ping.wait(15)
        assert PingResult.parse(ping.output()).lost == 0


@pytest.mark.parametrize("initiator", ["ours", "theirs"])
def test_a_preshared_key(pair: Pair, initiator: str) -> None:
    psk = os.urandom(32)
    pair.start(initiator=initiator, our_psk=psk, their_psk=psk)
    pair.assert_traffic(initiator)


@pytest.mark.parametrize("initiator", ["ours", "theirs"])
def test_a_wrong_preshared_key_gives_silence_until_it_is_right(pair: Pair, initiator: str) -> None:
    psk = os.urandom(32)
    pair.start(initiator=initiator, our_psk=os.urandom(32), their_psk=psk)
    host, (v4, _) = pair.side(initiator)
    assert host.ping(v4, count=3, wait=1).received == 0
    assert pair.ours.peer(pair.their_key)["last_handshake"] is None
    assert "latest handshake" not in pair.theirs.show()
    pair.configure_ours(initiator=initiator, psk=psk)
    wait_for(lambda: host.reaches(v4), 15, what="the handshake with the right key")
    pair.assert_traffic(initiator)


@pytest.mark.parametrize("initiator", ["ours", "theirs"])
def test_a_wrong_public_key_gives_silence(pair: Pair, initiator: str) -> None:
    pair.start(initiator=initiator)
    stranger = NodePrivate.generate(os.urandom).public
    host, (v4, _) = pair.side(initiator)
    if initiator == "ours":
        # Their key is another one than we think.
        pair.ours.peers.clear()
        pair.ours.set_peer(
            stranger, PeerOptions(hosts_and_prefixes(THEIR_INNER), ((OUTER["IPv4"][1], PORT),))
        )
        assert host.ping(v4, count=2, wait=1).received == 0
        assert pair.ours.peer(stranger)["last_handshake"] is None
    else:
        # We do not know their key.
        pair.ours.peers.clear()
        pair.ours.set_peer(stranger, PeerOptions(hosts_and_prefixes(THEIR_INNER)))
        assert host.ping(v4, count=2, wait=1).received == 0
        assert pair.ours.drops(DropReason.UNKNOWN_PEER) >= 1
    assert "latest handshake" not in pair.theirs.show()


@pytest.mark.parametrize(
    ("timings", "handshakes"),
    [
        pytest.param({"rekey_after_time": 2.0, "rekey_timeout": 0.5}, 4, id="after-time"),
        pytest.param({"rekey_after_messages": 40, "rekey_timeout": 0.2}, 4, id="after-messages"),
    ],
)
def test_rekeying_loses_no_packet(timings: Mapping[str, float], handshakes: int) -> None:
    with Lab("interop") as lab:
        pair = Pair(lab, timings)
        pair.start()
        pair.assert_traffic()
        with pair.our_host.capture("eth0", "udp") as capture:
            ping = pair.our_host.popen("ping", "-n", "-i", "0.05", "-w", "11", THEIR_INNER[0])
            back = pair.their_host.popen("ping", "-n", "-i", "0.05", "-w", "11", OUR_INNER[0])
            for direction in (ping, back):
                direction.wait(20)
                assert PingResult.parse(direction.output()).lost == 0
        kinds = [datagram.payload[0] for datagram in capture.udp_datagrams()]
        assert kinds.count(INITIATION) >= handshakes
        assert kinds.count(RESPONSE) >= handshakes


def test_keys_that_we_reject_early_are_renewed_by_us() -> None:
    """A session that only their side keeps using dies on ours; the next handshake brings traffic back."""
    timings = {
        "reject_after_time": 3.0,
        "rekey_after_time": 2.0,
        "keepalive_timeout": 0.5,
        "rekey_timeout": 0.5,
    }
    with Lab("interop") as lab:
        pair = Pair(lab, timings)
        pair.start()
        pair.assert_traffic()
        time.sleep(4)
        pair.assert_traffic("ours")
        pair.assert_traffic("theirs")


def test_we_roam_and_they_follow(pair: Pair) -> None:
    pair.start()
    pair.assert_traffic()
    pair.our_host.set_addresses("eth0", ["192.0.2.77/24", "2001:db8::77/64"])
    assert pair.our_host.ping(THEIR_INNER[0], count=5).received >= 4
    assert pair.theirs.peer(pair.ours.public_key.base64()).endpoint == f"192.0.2.77:{PORT}"
    pair.assert_traffic("theirs")


def test_they_roam_and_we_follow(pair: Pair) -> None:
    pair.start()
    pair.assert_traffic()
    pair.their_host.set_addresses("eth0", ["192.0.2.77/24", "2001:db8::77/64"])
    assert pair.their_host.ping(OUR_INNER[0], count=5).received >= 4
    with pair.our_host.capture("eth0", "udp") as capture:
        pair.assert_traffic("ours")
    assert {d.destination for d in capture.udp_datagrams() if d.source[0] == "192.0.2.1"} == {
        ("192.0.2.77", PORT)
    }


def test_they_roam_from_one_family_to_the_other(pair: Pair) -> None:
    pair.start(initiator="both")
    pair.assert_traffic()
    pair.theirs.set_peer(
        pair.ours.public_key.base64(), hosts_and_prefixes(OUR_INNER), endpoint=with_port(OUTER["IPv6"][0])
    )
    assert pair.their_host.ping(OUR_INNER[0], count=5).received >= 4
    with pair.our_host.capture("eth0", "udp") as capture:
        pair.assert_traffic("ours")
    sent = {
        d.destination[0]
        for d in capture.udp_datagrams()
        if d.destination[0] not in OUTER["IPv4"][:1] + OUTER["IPv6"][:1]
    }
    assert sent == {OUTER["IPv6"][1]}


def send(host: Host, destination: tuple[str, int], payloads: list[bytes]) -> None:
    """Send UDP datagrams from a host, from a port of its own."""
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"[s.sendto(bytes.fromhex(line.strip()), {destination!r}) for line in sys.stdin]\n"
    )
    host.run("python3", "-c", script, stdin="".join(payload.hex() + "\n" for payload in payloads))


def recorded_session(pair: Pair) -> list[UdpDatagram]:
    """Every datagram from the first handshake on, of a session in which both sides pinged."""
    with pair.our_host.capture("eth0", "udp") as capture:
        pair.start()
        pair.assert_traffic("ours")
        pair.assert_traffic("theirs")
    return capture.udp_datagrams()


def test_replayed_datagrams_change_nothing(pair: Pair) -> None:
    recorded = recorded_session(pair)
    to_us = [d.payload for d in recorded if d.destination[0] == OUTER["IPv4"][0]]
    to_them = [d.payload for d in recorded if d.destination[0] == OUTER["IPv4"][1]]
    before = pair.ours.peer(pair.their_key)
    data = [payload for payload in to_us if payload[0] == DATA]
    with pair.attacker.capture("eth0", "udp") as answers:
        send(pair.attacker, (OUTER["IPv4"][0], PORT), to_us)
        send(pair.attacker, (OUTER["IPv4"][1], PORT), to_them)
        wait_for(
            lambda: pair.ours.drops(DropReason.REPLAYED_COUNTER) >= len(data), 5, what="the replays' count"
        )
        time.sleep(0.3)
    assert [d for d in answers.udp_datagrams() if d.destination[0] == "192.0.2.3"] == []
    after = pair.ours.peer(pair.their_key)
    assert (after["rx_bytes"], after["handshakes"]) == (before["rx_bytes"], before["handshakes"])
    assert pair.theirs.peer(pair.ours.public_key.base64()).endpoint == with_port(OUTER["IPv4"][0])
    pair.assert_traffic("ours")


def test_a_replayed_initiation_of_theirs_gets_no_answer(pair: Pair) -> None:
    with pair.our_host.capture("eth0", "udp") as capture:
        pair.start(initiator="theirs")
        pair.assert_traffic("theirs")
    (initiation, *_) = [d.payload for d in capture.udp_datagrams() if len(d.payload) == INITIATION_SIZE]
    with pair.attacker.capture("eth0", "udp") as answers:
        send(pair.attacker, (OUTER["IPv4"][0], PORT), [initiation] * 3)
        wait_for(
            lambda: pair.ours.drops(DropReason.REPLAYED_TIMESTAMP, DropReason.RATE_LIMITED) >= 3,
            5,
            what="the replays' count",
        )
    assert [d for d in answers.udp_datagrams() if d.destination[0] == "192.0.2.3"] == []
    pair.assert_traffic("theirs")


def test_truncated_and_corrupted_datagrams_change_nothing(pair: Pair) -> None:
    recorded = recorded_session(pair)
    to_us = {d.payload[0]: d.payload for d in recorded if d.destination[0] == OUTER["IPv4"][0]}
    broken = [b"\x00", b"\x04", b"\x01\x00\x00\x00", b"\x05\x00\x00\x00" + bytes(60), os.urandom(1472)]
    for payload in to_us.values():
        broken += [payload[:length] for length in (4, 8, 15, 16, 31, len(payload) - 16, len(payload) - 1)]
        broken += [payload + b"\x00", payload[:20] + bytes([payload[20] ^ 1]) + payload[21:]]
    before = pair.ours.peer(pair.their_key)
    with pair.attacker.capture("eth0", "udp") as answers:
        send(pair.attacker, (OUTER["IPv4"][0], PORT), broken)
        time.sleep(0.5)
    assert [d for d in answers.udp_datagrams() if d.destination[0] == "192.0.2.3"] == []
    after = pair.ours.peer(pair.their_key)
    assert (after["rx_bytes"], after["handshakes"]) == (before["rx_bytes"], before["handshakes"])
    pair.assert_traffic("ours")
    pair.assert_traffic("theirs")


QUICK = {"keepalive_timeout": 0.5, "rekey_timeout": 0.5}


@pytest.mark.parametrize("speaks_first", ["ours", "theirs"])
def test_they_reboot(speaks_first: str) -> None:
    with Lab("interop") as lab:
        pair = Pair(lab, QUICK)
        pair.start(initiator="both")
        pair.assert_traffic()
        pair.theirs.kill()
        pair.start_theirs(initiator="both")
        host, (v4, _) = pair.side(speaks_first)
        wait_for(lambda: host.reaches(v4), 10, what="traffic after their reboot")
        pair.assert_traffic("ours")


@pytest.mark.parametrize("speaks_first", ["ours", "theirs"])
@pytest.mark.timeout(60)
def test_we_reboot(pair: Pair, speaks_first: str) -> None:
    pair.start(initiator="both")
    pair.assert_traffic()
    pair.ours.kill()
    pair.start_ours()
    host, (v4, _) = pair.side(speaks_first)
    # They go on with the old key until nothing has come back for 15 seconds.
    wait_for(lambda: host.reaches(v4), 25, what="traffic after our reboot")
    pair.assert_traffic("theirs")


def test_our_persistent_keepalive_opens_and_keeps_the_tunnel() -> None:
    with Lab("interop") as lab:
        pair = Pair(lab, our_keepalive=1)
        pair.start()
        wait_for(lambda: "latest handshake" in pair.theirs.show(), 10, what="a handshake without any traffic")
        received = pair.theirs.peer(pair.ours.public_key.base64()).received_bytes
        with pair.our_host.capture("eth0", "udp") as capture:
            time.sleep(4)
        assert pair.theirs.peer(pair.ours.public_key.base64()).received_bytes >= received + 3 * 32
        from_us = [d for d in capture.udp_datagrams() if d.source[0] == OUTER["IPv4"][0]]
        assert {len(d.payload) for d in from_us} == {32}
        assert 3 <= len(from_us) <= 5


def test_their_persistent_keepalive_is_heard() -> None:
    with Lab("interop") as lab:
        pair = Pair(lab, their_keepalive=1)
        pair.start(initiator="theirs")
        wait_for(lambda: pair.ours.peer(pair.their_key)["last_handshake"], 10, what="their handshake")
        received = pair.ours.peer(pair.their_key)["rx_bytes"]
        with pair.our_host.capture("eth0", "udp") as capture:
            time.sleep(4)
        assert pair.ours.peer(pair.their_key)["rx_bytes"] >= received + 3 * 32
        from_us = [d for d in capture.udp_datagrams() if d.source[0] == OUTER["IPv4"][0]]
        assert from_us == [], "a keepalive was answered"


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("reverse", [False, True], ids=["we-send", "they-send"])
def test_bulk_tcp_through_the_tunnel(pair: Pair, family: int, reverse: bool) -> None:
    pair.start()
    pair.assert_traffic()
    server = pair.their_host.popen("iperf3", "--server", "--one-off", log="iperf3")
    wait_for(lambda: "listening" in server.output(), 5, what="iperf3's server")
    words = ["iperf3", "--client", THEIR_INNER[family], "--bytes", "20M", *(["--reverse"] if reverse else [])]
    pair.our_host.run(*words)
    assert pair.ours.drops(DropReason.INVALID_TAG) == 0
    assert pair.ours.drops(DropReason.REPLAYED_COUNTER) == 0
