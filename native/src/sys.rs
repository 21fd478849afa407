//! The system calls of the fast path, on file descriptors that stay the caller's.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, sendto,
};

/// Room for the one control message that a receive brings, with its header.
const ANCILLARY_SIZE: usize = 64;

/// One receive.
pub struct Received {
    /// Bytes of the buffer.
    pub length: usize,
    /// Bytes of each datagram but the last.
    pub stride: usize,
    /// Where all of them came from.
    pub source: SocketAddr,
    /// More came than there was room for.
    pub is_truncated: bool,
}

/// The descriptor for the time of one call.
fn borrowed(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: it is used for the call that follows and no longer; one that was closed meanwhile makes that call
    // fail, and -1, which the type forbids, is refused by whoever makes a `FastPath`.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// One read. 0: nothing to read.
pub fn read(fd: RawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    match nix::unistd::read(borrowed(fd), buffer) {
        Err(Errno::EAGAIN) => Ok(0),
        other => other,
    }
}

/// One write, whole or not at all, as tunnel devices do it.
pub fn write(fd: RawFd, unit: &[u8]) -> Result<(), Errno> {
    nix::unistd::write(borrowed(fd), unit).map(|_| ())
}

/// One receive. None: nothing to receive, or an error that an earlier send left behind.
pub fn receive(fd: RawFd, buffer: &mut [u8]) -> Option<Received> {
    let mut ancillary = [0; ANCILLARY_SIZE];
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut ancillary), MsgFlags::empty()).ok()?;
    let mut received = Received {
        length: message.bytes,
        stride: message.bytes,
        source: message.address.as_ref().and_then(address)?,
        is_truncated: message.flags.contains(MsgFlags::MSG_TRUNC),
    };
    for item in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::UdpGroSegments(stride) = item {
            received.stride = usize::try_from(stride).unwrap_or(0);
        }
    }
    Some(received)
}

/// Send `data` as datagrams of `stride` bytes, the last maybe shorter, in one call.
pub fn send(fd: RawFd, data: &[u8], stride: usize, to: &SockaddrStorage) -> Result<(), Errno> {
    if data.len() <= stride {
        return sendto(fd, data, to, MsgFlags::empty()).map(|_| ());
    }
    let size = u16::try_from(stride).map_err(|_| Errno::EINVAL)?;
    let segments = [ControlMessage::UdpGsoSegments(&size)];
    sendmsg(fd, &[IoSlice::new(data)], &segments, MsgFlags::empty(), Some(to)).map(|_| ())
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let ipv4 = storage.as_sockaddr_in().map(|found| SocketAddrV4::from(*found).into());
    ipv4.or_else(|| storage.as_sockaddr_in6().map(|found| SocketAddrV6::from(*found).into()))
}
