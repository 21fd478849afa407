//! A packet that others may join, and those that did (reference §5.6).

use crate::checksum::{complement, fold, sum, sum_short};
use crate::seal::MAX_UNIT_SEGMENTS;
use crate::virtio::{self, NEEDS_CSUM, Offload, TCP_PSH};
use crate::wire::{put_u16, u16_at, u32_at};

/// Bytes of a merged packet: what the length fields hold.
pub const MAX_SUPERPACKET: usize = 65535;

const FRAGMENT: u16 = 0x3fff; // more-fragments flag and fragment offset

/// Where things are in headers of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Offset of the transport header: 20 in IPv4, which has no options here, 40 in IPv6.
    pub start: usize,
    /// Bytes before the payload.
    pub header_size: usize,
    /// TCP, or UDP.
    pub is_tcp: bool,
}

/// What cannot be merged with each other: protocol, addresses and ports, zeroes behind the shorter ones of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    protocol: u8,
    is_ipv6: bool,
    ends: [u8; 36],
}

/// What may be merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalescing {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams.
    pub udp: bool,
}

/// The flow, None when the packet does not show it, and the shape, None when it cannot be merged.
#[inline]
pub fn classify(packet: &[u8], coalescing: Coalescing) -> (Option<Flow>, Option<Shape>) {
    let (start, protocol) = match packet {
        [0x45, ..] if packet.len() >= 20 && u16_at(packet, 6) & FRAGMENT == 0 => (20, packet[9]),
        [first, ..] if first >> 4 == 6 && packet.len() >= 40 => (40, packet[6]),
        _ => return (None, None),
    };
    let (header_size, may_merge) = match protocol {
        virtio::TCP if packet.len() >= start + 20 => {
            let header_size = start + usize::from(packet[start + 12] >> 4) * 4;
            let is_plain = packet[start + 13] & !TCP_PSH == virtio::TCP_ACK;
            (header_size, coalescing.tcp && is_plain && header_size >= start + 20)
        }
        virtio::UDP if packet.len() >= start + 8 => {
            let is_whole = usize::from(u16_at(packet, start + 4)) == packet.len() - start;
            (start + virtio::UDP_HEADER_SIZE, coalescing.udp && is_whole)
        }
        _ => return (None, None),
    };
    let mut flow = Flow { protocol, is_ipv6: start == 40, ends: [0; 36] };
    if flow.is_ipv6 {
        flow.ends.copy_from_slice(&packet[8..44]);
    } else {
        flow.ends[..12].copy_from_slice(&packet[12..24]);
    }
    let shape = Shape { start, header_size, is_tcp: protocol == virtio::TCP };
    (Some(flow), (may_merge && header_size < packet.len()).then_some(shape))
}

impl Shape {
    /// Whether all that must be equal within a group is equal in two headers, of `header_size` bytes or more.
    #[inline]
    pub fn agree(&self, one: &[u8], other: &[u8]) -> bool {
        let same = |from: usize, to: usize| one[from..to] == other[from..to];
        let ip = if self.start == 20 {
            // Not: total length, identification, checksum.
            same(0, 2) && same(6, 10) && same(12, 24)
        } else {
            // Not: flow label, payload length.
            one[0] == other[0] && one[1] & 0xf0 == other[1] & 0xf0 && same(6, 44)
        };
        let transport = self.start;
        // Not: sequence, window, checksum, urgent pointer.
        ip && (!self.is_tcp
            || (same(transport + 8, transport + 13)
                && (one[transport + 13] ^ other[transport + 13]) & !TCP_PSH == 0
                && same(transport + 20, self.header_size)))
    }

    /// Addresses and protocol of the pseudo-header; the length differs per packet.
    fn pseudo_sum(&self, header: &[u8]) -> u64 {
        let addresses = if self.start == 20 { &header[12..20] } else { &header[8..40] };
        sum_short(addresses) + u64::from(if self.is_tcp { virtio::TCP } else { virtio::UDP })
    }

    /// True when the checksums of a packet verify: the transport's and, in IPv4, the header's.
    #[inline]
    fn is_intact(&self, header: &[u8], pseudo_sum: u64, payload_sum: u64, payload_size: usize) -> bool {
        if self.start == 20 && sum_short(&header[..20]) != 0xffff {
            return false;
        }
        let transport = &header[self.start..self.header_size];
        if !self.is_tcp && u16_at(transport, virtio::UDP_CSUM_OFFSET) == 0 {
            return self.start == 20; // the sender used none, which only IPv4 permits (RFC 768)
        }
        let length = (transport.len() + payload_size) as u64;
        fold(sum_short(transport) + payload_sum + pseudo_sum + length) == 0xffff
    }

    fn sequence(&self, packet: &[u8]) -> u32 {
        u32_at(packet, self.start + 4)
    }

    fn has_psh(&self, packet: &[u8]) -> bool {
        self.is_tcp && packet[self.start + 13] & TCP_PSH != 0
    }
}

/// Where a packet joins a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It goes on where the group ends.
    After,
    /// It ends where the group begins.
    Before,
}

/// A packet, and what is known of those that were merged with it.
#[derive(Debug)]
pub struct Group {
    /// Where things are in its headers.
    pub shape: Shape,
    /// Packets.
    pub count: usize,
    pseudo_sum: u64,
    payload_size: usize,
    gso_size: usize,
    sequence: u32,
    next_sequence: u32,
    has_psh: bool,
    is_closed: bool,
    is_verified: bool,
}

impl Group {
    /// A group of one.
    pub fn new(shape: Shape, packet: &[u8]) -> Self {
        let size = packet.len() - shape.header_size;
        let sequence = shape.sequence(packet);
        let has_psh = shape.has_psh(packet);
        Self {
            shape,
            count: 1,
            pseudo_sum: shape.pseudo_sum(packet),
            payload_size: size,
            gso_size: size,
            sequence,
            next_sequence: sequence.wrapping_add(size as u32),
            has_psh,
            is_closed: has_psh,
            is_verified: false,
        }
    }

    /// Where `packet`, whose headers agree with those of the group, would join it.
    ///
    /// `first` is the first packet of the group, looked at while it is alone: a corrupt one stays alone and as
    /// it is, because the merge would replace its checksum.
    #[inline]
    pub fn offer(&mut self, first: &[u8], packet: &[u8]) -> Option<Side> {
        let size = packet.len() - self.shape.header_size;
        let side = self.side(packet, size)?;
        let is_full = self.count >= if self.shape.is_tcp { MAX_SUPERPACKET } else { MAX_UNIT_SEGMENTS };
        if is_full || self.shape.header_size + self.payload_size + size > MAX_SUPERPACKET {
            return None;
        }
        if !self.is_verified {
            let (header, payload) = first.split_at(self.shape.header_size);
            self.is_verified = self.shape.is_intact(header, self.pseudo_sum, sum(payload), payload.len());
        }
        self.is_verified.then_some(side)
    }

    /// Take in the packet that was offered, if it is intact; `payload_sum` is the checksum of its payload.
    #[inline]
    pub fn join(&mut self, side: Side, packet: &[u8], payload_sum: u64) -> bool {
        let size = packet.len() - self.shape.header_size;
        if !self.shape.is_intact(packet, self.pseudo_sum, payload_sum, size) {
            return false;
        }
        self.count += 1;
        self.payload_size += size;
        match side {
            Side::After => {
                self.next_sequence = self.next_sequence.wrapping_add(size as u32);
                if self.shape.has_psh(packet) {
                    self.has_psh = true;
                    self.is_closed = true;
                } else if size < self.gso_size {
                    self.is_closed = true;
                }
            }
            Side::Before => {
                self.is_closed = self.is_closed || size > self.gso_size;
                self.gso_size = size;
                self.sequence = self.shape.sequence(packet);
            }
        }
        true
    }

    /// Where a packet with `size` bytes of payload would join.
    #[inline]
    fn side(&self, packet: &[u8], size: usize) -> Option<Side> {
        let shape = &self.shape;
        let may_follow = !self.is_closed && size <= self.gso_size;
        if !shape.is_tcp {
            let is_whole = usize::from(u16_at(packet, shape.start + 4)) == packet.len() - shape.start;
            return (is_whole && may_follow).then_some(Side::After);
        }
        let sequence = shape.sequence(packet);
        if sequence == self.next_sequence {
            return may_follow.then_some(Side::After);
        }
        let is_before = sequence.wrapping_add(size as u32) == self.sequence;
        let may_precede = size == self.gso_size || (size > self.gso_size && self.count == 1);
        (is_before && may_precede && !shape.has_psh(packet)).then_some(Side::Before)
    }

    /// Make the first packet's headers those of the superpacket. Returns the offload header.
    pub fn finish(&self, header: &mut [u8]) -> Offload {
        let shape = &self.shape;
        let total = shape.header_size + self.payload_size;
        let transport = shape.start;
        if transport == 20 {
            put_u16(header, 2, total as u16);
            put_u16(header, 10, 0);
            let checksum = complement(sum_short(&header[..transport]));
            put_u16(header, 10, checksum);
        } else {
            put_u16(header, 4, (total - 40) as u16);
        }
        if !shape.is_tcp {
            put_u16(header, transport + 4, (total - transport) as u16);
        } else if self.has_psh {
            header[transport + 13] |= TCP_PSH;
        }
        let csum_offset = if shape.is_tcp { virtio::TCP_CSUM_OFFSET } else { virtio::UDP_CSUM_OFFSET };
        put_u16(header, transport + csum_offset, fold(self.pseudo_sum + (total - transport) as u64));
        Offload {
            flags: NEEDS_CSUM,
            gso_type: match (shape.is_tcp, transport) {
                (true, 20) => virtio::GSO_TCPV4,
                (true, _) => virtio::GSO_TCPV6,
                (false, _) => virtio::GSO_UDP_L4,
            },
            header_size: shape.header_size as u16,
            gso_size: self.gso_size as u16,
            csum_start: transport as u16,
            csum_offset: csum_offset as u16,
        }
    }
}
