//! TUN reads: sound superpackets, and what a broken or hostile driver would say of them.

use crate::input::Input;
use crate::packets::{ACK, TCP, UDP};
use crate::segmentation::Header;

/// An offload header and what follows it.
pub fn read(input: &mut Input) -> Vec<u8> {
    let kind = input.u8();
    if kind >= 224 {
        return input.bytes(usize::MAX).to_vec();
    }
    let mut read = superpacket(input, kind);
    if kind & 0x40 != 0 {
        for _ in 0..1 + input.choice(4) {
            let at = input.choice(120).min(read.len() - 1);
            read[at] = input.u8();
        }
    }
    if kind & 0x20 != 0 && input.once_in(4) {
        read.truncate(input.up_to(200));
    }
    read
}

fn superpacket(input: &mut Input, kind: u8) -> Vec<u8> {
    let (is_ipv6, protocol) = (kind & 1 != 0, if kind & 2 == 0 { TCP } else { UDP });
    let is_one = kind & 0x1c == 0;
    let start = if is_ipv6 { 40 } else { 20 };
    let mut packet = vec![0; start];
    packet[0] = if is_ipv6 { 0x60 } else { 0x45 };
    packet[if is_ipv6 { 6 } else { 9 }] = protocol;
    for (byte, value) in packet[start - 8..].iter_mut().zip(input.bytes(8)) {
        *byte = *value; // addresses
    }
    let options = if protocol == TCP { input.choice(11) } else { 0 };
    if protocol == TCP {
        packet.extend([0, 1, 0, 2]);
        packet.extend(input.u32().to_be_bytes());
        packet.extend([0, 0, 0, 1, (5 + options as u8) << 4, ACK | input.u8(), 1, 0, 0, 0, 0, 0]);
        packet.extend(std::iter::repeat_n(1, options * 4));
    } else {
        packet.extend([0, 1, 0, 2, 0, 0, 0, 0]);
    }
    let hdr_len = packet.len();
    let payload = match input.choice(32) {
        0 => 0,
        31 => usize::from(input.u16()),
        _ => input.up_to(2500),
    };
    let seed = input.u8();
    packet.extend((0..payload).map(|k| (k >> 3) as u8 ^ seed));
    let gso_size = match input.choice(8) {
        0 => usize::from(input.u16()),
        _ => 1 + input.up_to(1400).max(payload / 200),
    };
    let header = Header {
        flags: 1,
        gso_type: match (is_one, is_ipv6) {
            (true, _) => 0,
            _ if protocol == UDP => 5,
            (_, true) => 4,
            (_, false) => 1,
        },
        hdr_len,
        gso_size,
        csum_start: start,
        csum_offset: if protocol == TCP { 16 } else { 6 },
    };
    [header.to_bytes(), packet].concat()
}
