"""Opening a TUN interface with offloads, by ioctl: what python-pytun leaves out is half of it (reference §5).

The device goes when its file descriptor is closed, unless somebody made it persistent.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

__all__ = ["TUN_PATH", "TunDevice", "TunError", "limit_segments", "open_tun"]

TUN_PATH: Final = "/dev/net/tun"

# linux/if_tun.h
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_IFREQ: Final = struct.Struct("16sH22x")

_CSUM: Final = 0x01
_TCP: Final = 0x02 | 0x04  # TSO4, TSO6
_TCP_ECN: Final = 0x08
_UDP: Final = 0x20 | 0x40  # USO4, USO6: Linux 6.2, and only together

# Checksums are a precondition of everything else. Kernels refuse what they do not know with EINVAL.
_OFFLOAD_SETS: Final = (
    _CSUM | _TCP | _TCP_ECN | _UDP,
    _CSUM | _TCP | _UDP,
    _CSUM | _TCP | _TCP_ECN,
    _CSUM | _TCP,
    _CSUM,
    0,
)

# linux/rtnetlink.h, linux/if_link.h
_RTM_NEWLINK: Final = 16
_NLM_F_REQUEST_ACK: Final = 0x01 | 0x04
_IFLA_GSO_MAX_SEGS: Final = 40
_NLMSGHDR: Final = struct.Struct("=IHHII")
_IFINFOMSG: Final = struct.Struct("=BxHiII")
_ATTRIBUTE_U32: Final = struct.Struct("=HHI")
_NLMSGERR: Final = struct.Struct("=i")

_NAME: Final = re.compile(r"[^\s/:]{1,15}")

_PERMISSION: Final = "run as root, or with CAP_NET_ADMIN"


class TunError(Exception):
    """The interface could not be opened; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class TunDevice:
    """An open TUN interface: every read and write carries a virtio_net_hdr and one packet."""

    name: str
    fd: int
    """Non-blocking. The owner of this object closes it."""
    tcp_offload: bool
    """Reads may give TCP superpackets."""
    udp_offload: bool
    """Reads may give UDP superpackets, and writes of them are understood."""

    def close(self) -> None:
        """Close the device, which removes the interface. Safe to call again."""
        with suppress(OSError):
            os.close(self.fd)


def open_tun(name: str, *, tcp_offload: bool = True, udp_offload: bool = True) -> TunDevice:
    """Create the interface `name` and ask for the offloads, as far as the kernel has them. Raises TunError.

    The interface is down, without address, and of MTU 1500. Ask for fewer offloads where a kernel is known
    to get them wrong (reference §5.10).
    """
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise TunError(f"{name!r} cannot be an interface name: 1 to 15 characters, no space, slash or colon")
    fd = _open_clone_device()
    try:
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
        answer = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
        offloads = _set_offloads(fd, tcp_offload, udp_offload)
    except OSError as error:
        os.close(fd)
        raise TunError(_why_not(name, error)) from error
    os.set_blocking(fd, False)
    created: bytes = _IFREQ.unpack(answer)[0]
    return TunDevice(
        name=created.rstrip(b"\0").decode(),
        fd=fd,
        tcp_offload=bool(offloads & _TCP),
        udp_offload=bool(offloads & _UDP),
    )


def limit_segments(name: str, count: int) -> bool:
    """Have the kernel build TCP superpackets of at most `count` segments for the interface (gso_max_segs).

    So that one sealed superpacket fits one send (reference §6.3). False when the kernel or our permissions
    do not allow it, which costs a second send for each superpacket and nothing else.
    """
    try:
        body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(name), 0, 0)
        body += _ATTRIBUTE_U32.pack(_ATTRIBUTE_U32.size, _IFLA_GSO_MAX_SEGS, count)
        header = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), _RTM_NEWLINK, _NLM_F_REQUEST_ACK, 1, 0)
        with socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        ) as sock:
            sock.settimeout(1.0)
            sock.sendto(header + body, (0, 0))
            answer = sock.recv(4096)
    except OSError:
        return False
    return bool(_NLMSGERR.unpack_from(answer, _NLMSGHDR.size) == (0,))


def _open_clone_device() -> int:
    try:
        return os.open(TUN_PATH, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        reason = f"{TUN_PATH} is missing: `modprobe tun`, or give the container that device"
    except PermissionError:
        reason = f"no permission to open {TUN_PATH}: {_PERMISSION}"
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENXIO):
            raise TunError(f"cannot open {TUN_PATH}: {error.strerror}") from error
        reason = f"the kernel has no TUN driver behind {TUN_PATH}: `modprobe tun`"
    raise TunError(reason)


def _set_offloads(fd: int, tcp_offload: bool, udp_offload: bool) -> int:
    """The first acceptable set that the kernel takes."""
    unwanted = (0 if tcp_offload else _TCP | _TCP_ECN) | (0 if udp_offload else _UDP)
    wanted = {offloads & ~unwanted: None for offloads in _OFFLOAD_SETS}
    for offloads in wanted:
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
        except OSError as error:
            if error.errno != errno.EINVAL or not offloads:
                raise
        else:
            return offloads
    return 0


def _why_not(name: str, error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"no permission to create the interface {name}: {_PERMISSION}"
    if error.errno == errno.EBUSY:
        return f"the interface {name} is in use by another program: stop it, or choose another name"
    if error.errno == errno.EINVAL:
        return f"there is an interface {name} that is not a TUN of ours to use: choose another name"
    return f"cannot create the interface {name}: {error.strerror}"
