//! Pad, number and seal: from packets to datagrams.

use crate::padding::padding;
use crate::session::{Sending, SessionSpent};
use crate::superpacket::Superpacket;
use crate::wire::{DATAGRAM_HEADER_SIZE, OVERHEAD, put_header};

/// Datagrams of one GSO send: the limit of kernels before 6.9 (reference §6.2).
pub const MAX_UNIT_SEGMENTS: usize = 64;

/// What was written: `total` bytes, datagrams of `stride`, the last maybe shorter, sends of `unit` bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Bytes; 0: nothing was sealed.
    pub total: usize,
    /// Bytes of each datagram but the last.
    pub stride: usize,
    /// Bytes of each send but the last: a multiple of `stride`.
    pub unit: usize,
}

/// Bytes that [`seal_packet`] needs.
pub fn sealed_size(length: usize, mtu: usize) -> usize {
    length + padding(length, mtu) + OVERHEAD
}

/// One IP packet (nothing: a keepalive) as one datagram, which fills `out`, [`sealed_size`] bytes.
pub fn seal_packet(
    sending: &mut Sending,
    remote_index: u32,
    packet: &[u8],
    out: &mut [u8],
) -> Result<(), SessionSpent> {
    let (key, counter) = sending.reserve(1)?;
    let (room, tag) = parts(out);
    room[..packet.len()].copy_from_slice(packet);
    room[packet.len()..].fill(0);
    *tag = key.seal(counter, room);
    put_header(out, remote_index, counter);
    Ok(())
}

/// Seal one TUN read (virtio_net_hdr and packet) into `out`, as GSO units of at most `max_unit` bytes.
///
/// The units are adjacent, from the start of `out`; all but the last hold the same number of datagrams, 64 at
/// most. Nothing is written, and no counter used, when the offload header does not fit the packet or the result
/// does not fit `out`.
pub fn seal_superpacket(
    sending: &mut Sending,
    remote_index: u32,
    read: &[u8],
    out: &mut [u8],
    mtu: usize,
    max_unit: usize,
) -> Result<Sealed, SessionSpent> {
    let Ok(superpacket) = Superpacket::parse(read) else { return Ok(Sealed::default()) };
    let stride = sealed_size(superpacket.segment_size, mtu);
    let total = (superpacket.count - 1) * stride + sealed_size(superpacket.last_size, mtu);
    if total > out.len() {
        return Ok(Sealed::default());
    }
    let (key, first) = sending.reserve(superpacket.count as u64)?;
    for (k, datagram) in out[..total].chunks_mut(stride).enumerate() {
        let counter = first + k as u64;
        let (room, tag) = parts(datagram);
        superpacket.write(k, room);
        *tag = key.seal(counter, room);
        put_header(datagram, remote_index, counter);
    }
    let unit = (max_unit / stride).clamp(1, MAX_UNIT_SEGMENTS) * stride;
    Ok(Sealed { total, stride, unit })
}

/// Where in a datagram the packet and its tag are.
#[inline]
fn parts(datagram: &mut [u8]) -> (&mut [u8], &mut [u8; 16]) {
    let (_, sealed) = datagram.split_at_mut(DATAGRAM_HEADER_SIZE);
    sealed.split_last_chunk_mut().expect("the caller made room for the tag")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Session;
    use crate::virtio::NO_OFFLOAD;

    #[test]
    fn a_packet_is_padded_and_numbered() {
        let session = Session::new(&[1; 32], &[2; 32], 1, 0x99);
        let mut out = [0; 64];
        let mut read = NO_OFFLOAD.to_vec();
        read.extend([0x45; 25]);
        for counter in 0..2u8 {
            let sealed = seal_superpacket(&mut session.sending(), 0x99, &read, &mut out, 1280, 1000);
            assert_eq!(sealed, Ok(Sealed { total: 64, stride: 64, unit: 15 * 64 }));
            assert_eq!(out[..16], [4, 0, 0, 0, 0x99, 0, 0, 0, counter, 0, 0, 0, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn nothing_is_numbered_that_does_not_fit() {
        let session = Session::new(&[1; 32], &[2; 32], 1, 2);
        let mut read = NO_OFFLOAD.to_vec();
        read.extend([0x45; 40]);
        let sealed = seal_superpacket(&mut session.sending(), 2, &read, &mut [0; 79], 1280, 1000);
        assert_eq!(sealed, Ok(Sealed::default()));
        assert_eq!(session.sending().counter, 0);
    }
}
