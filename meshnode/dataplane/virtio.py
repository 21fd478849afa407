"""struct virtio_net_hdr, which precedes every packet that the tunnel device gives and takes (reference §5.3).

    0  u8   flags        1 = the transport checksum field holds only the pseudo-header's sum
    1  u8   gso_type     0 none, 1 TCPv4, 4 TCPv6, 5 UDP; or-ed 0x80 = the flow uses ECN
    2  u16  hdr_len      IP and transport header together: a hint that must not be trusted
    4  u16  gso_size     payload bytes per segment
    6  u16  csum_start   offset of the transport header from the IP header
    8  u16  csum_offset  offset of the checksum field from csum_start

Native endian. The IP packet follows.
"""

from __future__ import annotations

import struct
from typing import Final

HEADER: Final = struct.Struct("=BBHHHH")
HEADER_SIZE: Final = 10
assert HEADER.size == HEADER_SIZE

NO_OFFLOAD: Final = bytes(HEADER_SIZE)

NEEDS_CSUM: Final = 1

GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 4
GSO_UDP_L4: Final = 5
GSO_ECN: Final = 0x80

# The transport protocols that are segmented and merged.
TCP: Final = 6
UDP: Final = 17
TCP_CSUM_OFFSET: Final = 16
UDP_CSUM_OFFSET: Final = 6
UDP_HEADER_SIZE: Final = 8

TCP_FIN: Final = 0x01
TCP_PSH: Final = 0x08
TCP_ACK: Final = 0x10
TCP_CWR: Final = 0x80
