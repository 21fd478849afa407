//! What one TUN read stands for, said plainly: every segment is made from scratch and summed from scratch.

use crate::packets::{self, TCP, UDP, set_checksums, set_u16, slow_sum, u16_of};

const NEEDS_CSUM: u8 = 1;

/// `struct virtio_net_hdr`.
pub struct Header {
    /// 1: the checksum is still to be completed.
    pub flags: u8,
    /// 0 none, 1 TCPv4, 4 TCPv6, 5 UDP; or-ed 0x80 = ECN.
    pub gso_type: u8,
    /// Bytes before the payload.
    pub hdr_len: usize,
    /// Bytes of payload in a segment.
    pub gso_size: usize,
    /// Where the transport header is.
    pub csum_start: usize,
    /// Where in it the checksum is.
    pub csum_offset: usize,
}

impl Header {
    /// Of the first 10 bytes.
    pub fn read(read: &[u8]) -> Self {
        let field = |at: usize| usize::from(u16::from_ne_bytes([read[at], read[at + 1]]));
        Self {
            flags: read[0],
            gso_type: read[1],
            hdr_len: field(2),
            gso_size: field(4),
            csum_start: field(6),
            csum_offset: field(8),
        }
    }

    /// As 10 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.flags, self.gso_type];
        for field in [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset] {
            bytes.extend((field as u16).to_ne_bytes());
        }
        bytes
    }
}

/// The protocol of a superpacket's type; None when it is no superpacket.
pub fn protocol(header: &Header) -> Option<u8> {
    match header.gso_type & 0x7f {
        0 => None,
        5 => Some(UDP),
        _ => Some(TCP),
    }
}

/// The packets; None when the offload header does not fit the packet.
pub fn cut(read: &[u8]) -> Option<Vec<Vec<u8>>> {
    if read.len() < 10 + 20 {
        return None;
    }
    let (header, packet) = (Header::read(read), &read[10..]);
    let needs_csum = header.flags & NEEDS_CSUM != 0;
    let field = header.csum_start + header.csum_offset;
    if needs_csum && field + 2 > packet.len() {
        return None;
    }
    match protocol(&header) {
        None if needs_csum && field > 0 => Some(vec![completed(packet, header.csum_start, field)]),
        None => Some(vec![packet.to_vec()]),
        Some(protocol) if needs_csum && header.gso_size > 0 => cut_superpacket(packet, &header, protocol),
        Some(_) => None,
    }
}

/// One packet whose checksum field holds the sum of the pseudo-header.
fn completed(packet: &[u8], start: usize, field: usize) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let sum = match slow_sum(&packet[start..]) {
        0 => 0xffff, // a sum of nothing but zeroes is that of 0xffff too
        sum => sum,
    };
    let is_udp = field - start == 6;
    let checksum = if is_udp && sum == 0xffff { 0xffff } else { !sum };
    set_u16(&mut packet, field, checksum.into());
    packet
}

fn cut_superpacket(packet: &[u8], header: &Header, protocol: u8) -> Option<Vec<Vec<u8>>> {
    let start = header.csum_start;
    let is_ipv6 = match (packet[0] >> 4, header.gso_type & 0x7f) {
        (4, 1 | 5) if start == usize::from(packet[0] & 15) * 4 && start >= 20 => false,
        (6, 4 | 5) if start >= 40 => true,
        _ => return None,
    };
    let header_size = if protocol == UDP {
        start + 8
    } else {
        let data_offset = usize::from(*packet.get(start + 19).map(|_| &packet[start + 12])? >> 4) * 4;
        if data_offset < 20 {
            return None;
        }
        start + data_offset
    };
    let right_field = if protocol == UDP { 6 } else { 16 };
    if header.csum_offset != right_field || packet.len() < header_size {
        return None;
    }
    let (headers, payload) = packet.split_at(header_size);
    let longest = header_size + payload.len().min(header.gso_size);
    if longest - if is_ipv6 { 40 } else { 0 } > 65535 {
        return None;
    }
    let mut pieces: Vec<&[u8]> = payload.chunks(header.gso_size).collect();
    if pieces.is_empty() {
        pieces.push(&[]);
    }
    let last = pieces.len() - 1;
    let mut segments = Vec::new();
    for (k, piece) in pieces.into_iter().enumerate() {
        let mut segment = [headers, piece].concat();
        let length = segment.len();
        if is_ipv6 {
            set_u16(&mut segment, 4, length - 40);
        } else {
            set_u16(&mut segment, 2, length);
            let identification = u16_of(headers, 4).wrapping_add(k as u16);
            set_u16(&mut segment, 4, identification.into());
        }
        if protocol == TCP {
            let sequence = u32::from_be_bytes(headers[start + 4..start + 8].try_into().unwrap());
            let sequence = sequence.wrapping_add((k * header.gso_size) as u32);
            segment[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
            if k != last {
                segment[start + 13] &= !(0x01 | packets::PSH);
            }
            if k != 0 {
                segment[start + 13] &= !0x80;
            }
        } else {
            set_u16(&mut segment, start + 4, length - start);
        }
        set_checksums(&mut segment, start, protocol);
        segments.push(segment);
    }
    Some(segments)
}
