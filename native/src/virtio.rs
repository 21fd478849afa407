//! `struct virtio_net_hdr`, which precedes every packet that the tunnel device gives and takes (reference §5.3).
//!
//! ```text
//! 0  u8   flags        1 = the transport checksum field holds only the pseudo-header's sum
//! 1  u8   gso_type     0 none, 1 TCPv4, 4 TCPv6, 5 UDP; or-ed 0x80 = the flow uses ECN
//! 2  u16  hdr_len      IP and transport header together: a hint that must not be trusted
//! 4  u16  gso_size     payload bytes per segment
//! 6  u16  csum_start   offset of the transport header from the IP header
//! 8  u16  csum_offset  offset of the checksum field from csum_start
//! ```
//!
//! Native endian. The IP packet follows.

/// Bytes of the offload header.
pub const HEADER_SIZE: usize = 10;
/// The offload header of a packet that is complete.
pub const NO_OFFLOAD: [u8; HEADER_SIZE] = [0; HEADER_SIZE];

/// Flag: the checksum is still to be computed.
pub const NEEDS_CSUM: u8 = 1;
/// Not a superpacket.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP over either.
pub const GSO_UDP_L4: u8 = 5;
/// Or-ed to the type: the flow uses ECN.
pub const GSO_ECN: u8 = 0x80;

/// IP protocol number.
pub const TCP: u8 = 6;
/// IP protocol number.
pub const UDP: u8 = 17;
/// Offset of the checksum field in a TCP header.
pub const TCP_CSUM_OFFSET: usize = 16;
/// Offset of the checksum field in a UDP header.
pub const UDP_CSUM_OFFSET: usize = 6;
/// Bytes of a UDP header.
pub const UDP_HEADER_SIZE: usize = 8;
/// TCP flag.
pub const TCP_FIN: u8 = 0x01;
/// TCP flag.
pub const TCP_PSH: u8 = 0x08;
/// TCP flag.
pub const TCP_ACK: u8 = 0x10;
/// TCP flag.
pub const TCP_CWR: u8 = 0x80;

/// The fields that are used, `hdr_len` when writing only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// See [`NEEDS_CSUM`].
    pub flags: u8,
    /// One of `GSO_…`.
    pub gso_type: u8,
    /// The hint.
    pub header_size: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where the transport header is.
    pub csum_start: u16,
    /// Where in it the checksum is.
    pub csum_offset: u16,
}

impl Offload {
    /// Read the header; the packet follows.
    pub fn read(header: &[u8; HEADER_SIZE]) -> Self {
        let [flags, gso_type, h0, h1, g0, g1, s0, s1, o0, o1] = *header;
        Self {
            flags,
            gso_type,
            header_size: u16::from_ne_bytes([h0, h1]),
            gso_size: u16::from_ne_bytes([g0, g1]),
            csum_start: u16::from_ne_bytes([s0, s1]),
            csum_offset: u16::from_ne_bytes([o0, o1]),
        }
    }

    /// The header as the tunnel device wants it.
    pub fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut bytes = NO_OFFLOAD;
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        let fields = [self.header_size, self.gso_size, self.csum_start, self.csum_offset];
        for (at, field) in bytes[2..].chunks_exact_mut(2).zip(fields) {
            at.copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        let offload = Offload {
            flags: NEEDS_CSUM,
            gso_type: GSO_TCPV6,
            header_size: 60,
            gso_size: 1220,
            csum_start: 40,
            csum_offset: 16,
        };
        assert_eq!(Offload::read(&offload.to_bytes()), offload);
        assert_eq!(Offload::read(&NO_OFFLOAD).to_bytes(), NO_OFFLOAD);
    }
}
