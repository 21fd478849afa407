"""Raw sockets on the tunnel's interface: packets of one IP protocol, to and from peers through WireGuard.

They need CAP_NET_RAW, as the daemon has. Unlike our other sockets they are not marked, since what they send
must go into the tunnel. They are bound to the interface, so nothing from elsewhere comes in.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

from meshproto.addresses import IPAddress, parse_address

_MAX_PACKET: Final = 65535
_ANCILLARY_SIZE: Final = socket.CMSG_SPACE(20)
_IP_PKTINFO: Final = 8  # linux/in.h; the socket module has no name for it
_IPV4_PACKET_INFO = struct.Struct("=i4s4s")  # interface, local address, destination
_IPV6_PACKET_INFO = struct.Struct("=16si")  # local address, interface


class Packet(NamedTuple):
    """The payload of an IP packet, and its addresses."""

    source: IPAddress
    destination: IPAddress
    payload: bytes


class InnerSocket:
    """One protocol, one family. Raises OSError where the interface or the right to open it is missing."""

    def __init__(self, interface: str, version: int, protocol: int) -> None:
        self._is_ipv6 = version == 6
        family = socket.AF_INET6 if self._is_ipv6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            if self._is_ipv6:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> Packet | None:
        """The next packet, or None when there is none that can be read."""
        try:
            received, ancillary, _, source = self._socket.recvmsg(_MAX_PACKET, _ANCILLARY_SIZE)
        except OSError:
            return None
        if self._is_ipv6:
            return self._ipv6_packet(received, ancillary, str(source[0]))
        # Raw IPv4 sockets are given the header too.
        header = (received[0] & 0x0F) * 4
        source_v4, destination_v4 = (
            parse_address(socket.inet_ntoa(received[at : at + 4])) for at in (12, 16)
        )
        return Packet(source_v4, destination_v4, received[header:])

    def send(self, destination: IPAddress, payload: bytes, source: IPAddress | None = None) -> None:
        """Send one packet, from `source` if that is given. Raises OSError where the network refuses it."""
        ancillary = [] if source is None else [self._from(source)]
        self._socket.sendmsg([payload], ancillary, 0, (str(destination), 0))

    def _from(self, source: IPAddress) -> tuple[int, int, bytes]:
        if self._is_ipv6:
            info = _IPV6_PACKET_INFO.pack(source.packed, 0)
            return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info
        return socket.IPPROTO_IP, _IP_PKTINFO, _IPV4_PACKET_INFO.pack(0, source.packed, bytes(4))

    @staticmethod
    def _ipv6_packet(payload: bytes, ancillary: list[tuple[int, int, bytes]], host: str) -> Packet | None:
        source = parse_address(host.partition("%")[0])
        for level, kind, info in ancillary:
            if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                local = _IPV6_PACKET_INFO.unpack(info)[0]
                return Packet(source, parse_address(socket.inet_ntop(socket.AF_INET6, local)), payload)
        return None
