//! IP packets: a few streams of TCP and UDP of both families, made from input, with everything that is wrong with
//! packets now and then.

use crate::input::Input;

/// IP protocol number.
pub const TCP: u8 = 6;
/// IP protocol number.
pub const UDP: u8 = 17;
/// TCP flag.
pub const ACK: u8 = 0x10;
/// TCP flag.
pub const PSH: u8 = 0x08;

/// The one's-complement sum of the words of `data` (RFC 1071), word by word.
pub fn slow_sum(data: &[u8]) -> u16 {
    let (words, rest) = data.as_chunks::<2>();
    let mut total: u64 = words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum();
    total += rest.first().map_or(0, |&high| u64::from(high) << 8);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The 16 bits at `at`.
pub fn u16_of(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(data[at..at + 2].try_into().unwrap())
}

/// Set the 16 bits at `at`.
pub fn set_u16(data: &mut [u8], at: usize, value: usize) {
    data[at..at + 2].copy_from_slice(&u16::try_from(value).unwrap().to_be_bytes());
}

/// The pseudo-header and the transport segment of a packet, ready to be summed.
pub fn with_pseudo_header(packet: &[u8], start: usize, protocol: u8) -> Vec<u8> {
    let addresses = if packet[0] >> 4 == 6 { &packet[8..40] } else { &packet[12..20] };
    let length = (packet.len() - start) as u32;
    let mut bytes = addresses.to_vec();
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(&packet[start..]);
    bytes
}

/// Complete the checksums of a packet whose transport header is at `start`.
pub fn set_checksums(packet: &mut [u8], start: usize, protocol: u8) {
    if packet[0] >> 4 == 4 {
        set_u16(packet, 10, 0);
        let sum = !slow_sum(&packet[..start]);
        set_u16(packet, 10, sum.into());
    }
    let field = start + if protocol == TCP { 16 } else { 6 };
    set_u16(packet, field, 0);
    let sum = match !slow_sum(&with_pseudo_header(packet, start, protocol)) {
        0 if protocol == UDP => 0xffff,
        sum => sum,
    };
    set_u16(packet, field, sum.into());
}

/// Whether all checksums verify; a UDP datagram over IPv4 may have none. `start` is where the transport header is.
pub fn is_intact(packet: &[u8], start: usize, protocol: u8) -> bool {
    let is_ipv4 = packet[0] >> 4 == 4;
    if is_ipv4 && slow_sum(&packet[..start]) != 0xffff {
        return false;
    }
    if protocol == UDP && u16_of(packet, start + 6) == 0 {
        return is_ipv4;
    }
    slow_sum(&with_pseudo_header(packet, start, protocol)) == 0xffff
}

/// What comes next in each stream.
#[derive(Default)]
pub struct Streams {
    next: [u32; 32],
}

impl Streams {
    /// A packet of about `size` bytes, mostly what follows the one before in its stream.
    pub fn packet(&mut self, input: &mut Input, size: usize) -> Vec<u8> {
        let stream = input.choice(64);
        // The second half is all one stream: that is what traffic looks like, and what gets merged.
        let stream = if stream < self.next.len() { stream } else { 0 };
        let (is_ipv6, protocol) = (stream & 1 != 0, if stream & 2 == 0 { TCP } else { UDP });
        let (owner, port) = (stream as u8 >> 2 & 3, stream as u8 >> 4);
        let mut packet = ip_header(is_ipv6, protocol, owner);
        let start = packet.len();
        let options = if protocol == TCP && input.once_in(16) { input.choice(11) * 4 } else { 0 };
        packet.extend([0, port, 0, 80]);
        if protocol == TCP {
            packet.extend(self.next[stream].to_be_bytes());
            packet.extend([0, 0, 0, 1, (5 + options as u8 / 4) << 4, ACK, 1, 0, 0, 0, 0, 0]);
            packet.extend(std::iter::repeat_n(1, options));
        } else {
            packet.extend([0; 4]);
        }
        let payload = size.saturating_sub(packet.len());
        self.next[stream] = self.next[stream].wrapping_add(payload as u32);
        packet.extend((0..payload).map(|k| (k + stream * 7) as u8));
        set_lengths(&mut packet, start, protocol);
        let quirk = input.u8();
        if quirk >= 160 {
            self.make_odd(input, quirk, &mut packet, start, protocol);
        }
        set_checksums(&mut packet, start, protocol);
        if quirk >= 240 {
            let at = input.up_to(packet.len() - 1);
            packet[at] ^= input.u8();
        }
        packet
    }

    /// Change one thing that the checksums then cover.
    fn make_odd(&mut self, input: &mut Input, quirk: u8, packet: &mut [u8], start: usize, protocol: u8) {
        let length = packet.len();
        match quirk % 16 {
            0 | 1 if protocol == TCP => packet[start + 13] |= PSH,
            2 if protocol == TCP => packet[start + 13] = input.u8(),
            3 | 4 if protocol == TCP => {
                // What comes before the stream's start, or before some other packet of it.
                let back = (length - start - 20) as u32 * u32::from(input.u8() % 8);
                let sequence = u32::from_be_bytes(packet[start + 4..start + 8].try_into().unwrap());
                packet[start + 4..start + 8].copy_from_slice(&sequence.wrapping_sub(back).to_be_bytes());
            }
            5 if protocol == TCP => packet[start + 4..start + 8].copy_from_slice(&input.u32().to_be_bytes()),
            6 if protocol == TCP => packet[start + 14] = input.u8(), // the window
            7 if protocol == TCP => packet[start + 12] = input.u8(), // where its payload is
            8 if protocol == UDP => set_u16(packet, start + 4, input.u16().into()),
            9 => packet[0] ^= input.u8() & 15, // the size of the IP header
            10 => packet[1] = input.u8(),
            11 => set_u16(packet, 4, input.u16().into()), // identification, or the length
            12 => packet[6] = input.u8(),                 // fragment, or the protocol
            13 => packet[8] = input.u8(),                 // time to live, or the source
            14 => set_u16(packet, 2, input.u16().into()), // the length, or a label
            _ => packet[start + 8..][..input.choice(12).min(length - start - 8)].fill(0xff),
        }
    }
}

/// Without lengths and checksum; `owner` is in the source.
fn ip_header(is_ipv6: bool, protocol: u8, owner: u8) -> Vec<u8> {
    if is_ipv6 {
        let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64, 0xfd, owner];
        header.resize(23, 0);
        header.extend([1, 0xfd]);
        header.resize(39, 0);
        header.push(2);
        return header;
    }
    vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, owner, 0, 1, 10, 0, 0, 2]
}

fn set_lengths(packet: &mut [u8], start: usize, protocol: u8) {
    let length = packet.len();
    if start == 40 {
        set_u16(packet, 4, length - 40);
    } else {
        set_u16(packet, 2, length);
    }
    if protocol == UDP {
        set_u16(packet, start + 4, length - start);
    }
}
