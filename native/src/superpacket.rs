//! From one TUN read to the IP packets it stands for: checksums completed, superpackets cut.
//!
//! Per segment k of payload size g:
//!
//! ```text
//! IPv4   total length; identification + k; header checksum
//! IPv6   payload length
//! TCP    sequence + k * g; FIN and PSH on the last only; CWR on the first only; checksum
//! UDP    length; checksum, 0 written as 0xffff
//! ```
//!
//! Everything else is copied from the superpacket's headers (reference §5.4, §5.5).

use crate::checksum::{complement, copy_and_sum, fold, sum};
use crate::virtio::{self, HEADER_SIZE, Offload};
use crate::wire::{put_u16, put_u32, u16_at, u32_at};

/// The offload header does not fit the packet behind it.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// One TUN read, understood: `count` packets of `segment_size` bytes, the last of `last_size`.
pub struct Superpacket<'a> {
    packet: &'a [u8],
    cut: Cut,
    /// Packets.
    pub count: usize,
    /// Bytes of each but the last.
    pub segment_size: usize,
    /// Bytes of the last.
    pub last_size: usize,
}

enum Cut {
    /// One packet, complete.
    Whole,
    /// One packet whose transport checksum lacks everything but the pseudo-header: (from, field).
    Partial(usize, usize),
    /// A superpacket.
    Segments(Template),
}

/// What all segments have in common, with the sums of it, and the first segment's fields that vary.
///
/// They are read here once: reading back from a segment what was just written to it, in other sizes, is slow.
struct Template {
    is_tcp: bool,
    is_ipv6: bool,
    start: usize,
    header_size: usize,
    gso_size: usize,
    ip_sum: u64,
    transport_sum: u64,
    identification: u16,
    sequence: u32,
    /// Data offset and flags.
    offset_and_flags: u16,
}

impl<'a> Superpacket<'a> {
    /// Whatever the bytes, it is this or an error.
    pub fn parse(read: &'a [u8]) -> Result<Self, Malformed> {
        let Some((header, packet)) = read.split_first_chunk::<HEADER_SIZE>() else {
            return Err(Malformed("too short for an IP packet"));
        };
        if packet.len() < 20 {
            return Err(Malformed("too short for an IP packet"));
        }
        let offload = Offload::read(header);
        let start = usize::from(offload.csum_start);
        let needs_csum = offload.flags & virtio::NEEDS_CSUM != 0;
        let field = if needs_csum { start + usize::from(offload.csum_offset) } else { 0 };
        if needs_csum && field + 2 > packet.len() {
            return Err(Malformed("checksum field outside the packet"));
        }
        let gso_type = offload.gso_type & !virtio::GSO_ECN;
        if gso_type == virtio::GSO_NONE {
            let cut = if field == 0 { Cut::Whole } else { Cut::Partial(start, field) };
            return Ok(Self { packet, cut, count: 1, segment_size: packet.len(), last_size: packet.len() });
        }
        let header_size = header_size(packet, gso_type, start, usize::from(offload.csum_offset))?;
        let gso_size = usize::from(offload.gso_size);
        if gso_size == 0 || !needs_csum {
            return Err(Malformed("a superpacket without segment size or without checksum start"));
        }
        Self::of_segments(packet, gso_type, start, header_size, gso_size)
    }

    fn of_segments(
        packet: &'a [u8],
        gso_type: u8,
        start: usize,
        header_size: usize,
        gso_size: usize,
    ) -> Result<Self, Malformed> {
        let payload = packet.len() - header_size;
        let count = payload.div_ceil(gso_size).max(1);
        let segment_size = header_size + payload.min(gso_size);
        let is_ipv6 = packet[0] >> 4 == 6;
        if segment_size - if is_ipv6 { 40 } else { 0 } > 0xffff {
            return Err(Malformed("a segment longer than its length field can say"));
        }
        let template =
            Template::new(packet, gso_type != virtio::GSO_UDP_L4, is_ipv6, start, header_size, gso_size);
        Ok(Self {
            packet,
            cut: Cut::Segments(template),
            count,
            segment_size,
            last_size: packet.len() - (count - 1) * gso_size,
        })
    }

    /// Write packet `k` to the start of `out`, and zeroes behind it. `out` must have room for it.
    #[inline]
    pub fn write(&self, k: usize, out: &mut [u8]) {
        match &self.cut {
            Cut::Segments(template) => self.write_segment(template, k, out),
            whole => {
                let (segment, rest) = out.split_at_mut(self.packet.len());
                segment.copy_from_slice(self.packet);
                rest.fill(0);
                if let Cut::Partial(start, field) = *whole {
                    complete(segment, start, field);
                }
            }
        }
    }

    #[inline]
    fn write_segment(&self, template: &Template, k: usize, out: &mut [u8]) {
        let is_last = k == self.count - 1;
        let (segment, rest) = out.split_at_mut(if is_last { self.last_size } else { self.segment_size });
        if !rest.is_empty() {
            rest.fill(0);
        }
        let (header, payload) = segment.split_at_mut(template.header_size);
        header.copy_from_slice(&self.packet[..template.header_size]);
        let from = template.header_size + k * template.gso_size;
        let payload_sum = copy_and_sum(&self.packet[from..from + payload.len()], payload);
        template.write_ip(segment, k);
        if template.is_tcp {
            template.write_tcp(segment, k, is_last, payload_sum);
        } else {
            template.write_udp(segment, payload_sum);
        }
    }
}

impl Template {
    fn new(
        packet: &[u8],
        is_tcp: bool,
        is_ipv6: bool,
        start: usize,
        header_size: usize,
        gso_size: usize,
    ) -> Self {
        let header = &packet[..header_size];
        let addresses = if is_ipv6 { &header[8..40] } else { &header[12..20] };
        let protocol = if is_tcp { virtio::TCP } else { virtio::UDP };
        // IPv4: all but total length, identification and checksum.
        let ip_sum =
            if is_ipv6 { 0 } else { sum(&header[..2]) + sum(&header[6..10]) + sum(&header[12..start]) };
        // TCP: ports, acknowledgement, window, urgent pointer and options; UDP: ports. The rest varies.
        let transport = &header[start..];
        let mut constant = sum(&transport[..4]);
        let (mut sequence, mut offset_and_flags) = (0, 0);
        if is_tcp {
            constant += sum(&transport[8..12]) + sum(&transport[14..16]) + sum(&transport[18..]);
            sequence = u32_at(transport, 4);
            offset_and_flags = u16_at(transport, 12);
        }
        let transport_sum = sum(addresses) + u64::from(protocol) + constant;
        let identification = if is_ipv6 { 0 } else { u16_at(header, 4) };
        Self {
            is_tcp,
            is_ipv6,
            start,
            header_size,
            gso_size,
            ip_sum,
            transport_sum,
            identification,
            sequence,
            offset_and_flags,
        }
    }

    #[inline]
    fn write_ip(&self, segment: &mut [u8], k: usize) {
        let size = segment.len();
        if self.is_ipv6 {
            put_u16(segment, 4, (size - 40) as u16);
            return;
        }
        let identification = self.identification.wrapping_add(k as u16);
        put_u16(segment, 2, size as u16);
        put_u16(segment, 4, identification);
        put_u16(segment, 10, complement(self.ip_sum + size as u64 + u64::from(identification)));
    }

    #[inline]
    fn write_tcp(&self, segment: &mut [u8], k: usize, is_last: bool, payload_sum: u64) {
        let start = self.start;
        let sequence = self.sequence.wrapping_add((k * self.gso_size) as u32);
        let mut flags = self.offset_and_flags;
        if !is_last {
            flags &= !u16::from(virtio::TCP_FIN | virtio::TCP_PSH);
        }
        if k > 0 {
            flags &= !u16::from(virtio::TCP_CWR);
        }
        put_u32(segment, start + 4, sequence);
        put_u16(segment, start + 12, flags);
        let varying = u64::from(sequence) + u64::from(flags) + (segment.len() - start) as u64;
        let total = self.transport_sum + varying + payload_sum;
        put_u16(segment, start + virtio::TCP_CSUM_OFFSET, complement(total));
    }

    #[inline]
    fn write_udp(&self, segment: &mut [u8], payload_sum: u64) {
        let length = segment.len() - self.start;
        let total = self.transport_sum + 2 * length as u64 + payload_sum;
        put_u16(segment, self.start + 4, length as u16);
        put_u16(segment, self.start + virtio::UDP_CSUM_OFFSET, complement_udp(total));
    }
}

/// On the wire 0 means "none" (RFC 768).
fn complement_udp(total: u64) -> u16 {
    match complement(total) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Finish the checksum of one packet: the sum from `start` includes the partial one that is in `field`.
fn complete(packet: &mut [u8], start: usize, field: usize) {
    let total = match sum(&packet[start..]) {
        0 => 0xffff,
        total => total,
    };
    let is_udp = field - start == virtio::UDP_CSUM_OFFSET;
    let checksum = if is_udp { complement_udp(total) } else { complement(total) };
    debug_assert_ne!(fold(total), 0);
    put_u16(packet, field, checksum);
}

/// Bytes before the payload, computed: hdr_len is a hint that may cover the whole first segment.
fn header_size(packet: &[u8], gso_type: u8, start: usize, csum_offset: usize) -> Result<usize, Malformed> {
    let ip_fits = match packet[0] >> 4 {
        4 => gso_type != virtio::GSO_TCPV6 && start == usize::from(packet[0] & 15) * 4 && start >= 20,
        6 => gso_type != virtio::GSO_TCPV4 && start >= 40,
        _ => false,
    };
    if !ip_fits {
        return Err(Malformed("the IP header does not fit the offload type"));
    }
    let (size, least, field) = match gso_type {
        virtio::GSO_UDP_L4 => (start + virtio::UDP_HEADER_SIZE, start + 8, virtio::UDP_CSUM_OFFSET),
        virtio::GSO_TCPV4 | virtio::GSO_TCPV6 if start + 20 <= packet.len() => {
            (start + usize::from(packet[start + 12] >> 4) * 4, start + 20, virtio::TCP_CSUM_OFFSET)
        }
        _ => return Err(Malformed("unknown offload type or no room for a TCP header")),
    };
    if csum_offset != field || size > packet.len() || size < least {
        return Err(Malformed("the transport header does not fit the packet"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp_read(payload: usize, gso_size: u16, flags: u8) -> Vec<u8> {
        let offload = Offload {
            flags: virtio::NEEDS_CSUM,
            gso_type: virtio::GSO_TCPV4,
            header_size: 0,
            gso_size,
            csum_start: 20,
            csum_offset: 16,
        };
        let mut read = offload.to_bytes().to_vec();
        read.extend([0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        read.extend([0, 80, 0, 81, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 9, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        read.extend((0..payload).map(|k| k as u8));
        read
    }

    #[test]
    fn segments_are_sound() {
        let read = tcp_read(250, 100, virtio::TCP_PSH | virtio::TCP_ACK | virtio::TCP_CWR);
        let superpacket = Superpacket::parse(&read).unwrap();
        assert_eq!((superpacket.count, superpacket.segment_size, superpacket.last_size), (3, 140, 90));
        for (k, flags, sequence) in [(0, 0x90, 0xffff_ffff), (1, 0x10, 99), (2, 0x18, 199)] {
            let mut out = [0xee; 144];
            superpacket.write(k, &mut out);
            let size = if k == 2 { 90 } else { 140 };
            assert_eq!(usize::from(u16_at(&out, 2)), size);
            assert_eq!(u16_at(&out, 4), 0xffff_u16.wrapping_add(k as u16));
            assert_eq!(out[33], flags);
            assert_eq!(u32_at(&out, 24), sequence);
            assert_eq!(sum(&out[..20]), 0xffff);
            let pseudo = sum(&out[12..20]) + 6 + size as u64 - 20;
            assert_eq!(fold(pseudo + sum(&out[20..size])), 0xffff);
            assert!(out[size..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let sound = tcp_read(250, 100, 0);
        for (at, value) in [(0, 0), (1, 4), (1, 3), (6, 21), (8, 6), (10, 0x65), (42, 0x40), (42, 0xf1)] {
            let mut read = sound.clone();
            read[at] = value;
            assert_eq!(
                Superpacket::parse(&read).is_err(),
                !(at == 42 && value == 0xf1),
                "byte {at} = {value}"
            );
        }
        for length in 0..50 {
            assert!(Superpacket::parse(&sound[..length]).is_err());
        }
    }

    #[test]
    fn a_segment_that_no_length_field_holds() {
        let read = tcp_read(65_600, 65_535, 0);
        assert!(Superpacket::parse(&read).is_err());
    }
}
