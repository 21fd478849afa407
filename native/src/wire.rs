//! Big-endian fields and the layout of transport data.
//!
//! A datagram, little-endian (whitepaper 5.4.6):
//!
//! ```text
//!  0  u32  4: the message type, and three reserved zero bytes
//!  4  u32  receiver index
//!  8  u64  counter
//! 16       ChaCha20-Poly1305 of the padded IP packet, with its tag of 16 bytes
//! ```

/// Bytes before the sealed packet.
pub const DATAGRAM_HEADER_SIZE: usize = 16;
/// Bytes of a datagram besides the padded packet: header and tag.
pub const OVERHEAD: usize = 32;
/// The message type of transport data, with its reserved bytes.
pub const TRANSPORT_DATA: u32 = 4;

/// The 16-bit field at `at`.
#[inline]
pub fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([data[at], data[at + 1]])
}

/// The 32-bit field at `at`.
#[inline]
pub fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

/// Set the 16-bit field at `at`.
#[inline]
pub fn put_u16(data: &mut [u8], at: usize, value: u16) {
    data[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Set the 32-bit field at `at`.
#[inline]
pub fn put_u32(data: &mut [u8], at: usize, value: u32) {
    data[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// Write the header of one datagram into its first 16 bytes.
#[inline]
pub fn put_header(datagram: &mut [u8], receiver_index: u32, counter: u64) {
    datagram[..4].copy_from_slice(&TRANSPORT_DATA.to_le_bytes());
    datagram[4..8].copy_from_slice(&receiver_index.to_le_bytes());
    datagram[8..16].copy_from_slice(&counter.to_le_bytes());
}

/// What a datagram is, as far as it can be told without a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// Transport data for a receiver index, with its counter.
    Data {
        /// Whose session it is for.
        index: u32,
        /// The nonce.
        counter: u64,
    },
    /// It begins as transport data, and has not even its header and tag.
    TooShort,
    /// Anything else: the caller's business.
    Other,
}

/// Look at the header of one datagram.
#[inline]
pub fn kind_of(datagram: &[u8]) -> Kind {
    if datagram.len() < OVERHEAD {
        return if datagram.starts_with(&TRANSPORT_DATA.to_le_bytes()) {
            Kind::TooShort
        } else {
            Kind::Other
        };
    }
    let (words, _) = datagram.as_chunks::<4>();
    if u32::from_le_bytes(words[0]) != TRANSPORT_DATA {
        return Kind::Other;
    }
    let counter = u64::from(u32::from_le_bytes(words[2])) | u64::from(u32::from_le_bytes(words[3])) << 32;
    Kind::Data { index: u32::from_le_bytes(words[1]), counter }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut datagram = [0; OVERHEAD];
        put_header(&mut datagram, 0x1122_3344, 0x0102_0304_0506_0708);
        assert_eq!(datagram[..8], [4, 0, 0, 0, 0x44, 0x33, 0x22, 0x11]);
        assert_eq!(kind_of(&datagram), Kind::Data { index: 0x1122_3344, counter: 0x0102_0304_0506_0708 });
    }

    #[test]
    fn short_and_foreign_datagrams() {
        assert_eq!(kind_of(&[4, 0, 0, 0]), Kind::TooShort);
        assert_eq!(kind_of(&[4, 0, 0]), Kind::Other);
        assert_eq!(kind_of(&[]), Kind::Other);
        assert_eq!(kind_of(&[1; OVERHEAD]), Kind::Other);
        let mut reserved = [0; OVERHEAD];
        reserved[0] = 4;
        reserved[3] = 1;
        assert_eq!(kind_of(&reserved), Kind::Other);
    }
}
