//! The Internet checksum (RFC 1071).
//!
//! One's-complement sums may be taken in words of any size and in either byte order: the words here are native
//! ones of 32 bits, added into 64, and the bytes are swapped once at the end.

/// Fold a sum of big-endian words to 16 bits: 0 for 0, else 1..=65535.
#[inline]
pub fn fold(mut total: u64) -> u16 {
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    total as u16
}

/// The folded sum of the big-endian words of `data`; the last byte of an odd number is the high byte of a word.
#[inline]
pub fn sum(data: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let (blocks, rest) = data.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        total += u64::from(u32::from_ne_bytes(last));
    }
    u64::from(u16::from_be(fold(total)))
}

/// The checksum field for a sum > 0: 0..=65534.
#[inline]
pub fn complement(total: u64) -> u16 {
    !fold(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow_sum(data: &[u8]) -> u64 {
        let mut total = 0u64;
        for pair in data.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
            total = (total & 0xffff) + (total >> 16);
        }
        total
    }

    #[test]
    fn every_length_equals_the_rfc() {
        let data: Vec<u8> = (0..300u32).map(|k| (k * 167 + 13) as u8).collect();
        for length in 0..=data.len() {
            assert_eq!(sum(&data[..length]), slow_sum(&data[..length]), "{length} bytes");
        }
    }

    #[test]
    fn zero_is_for_zeroes_only() {
        assert_eq!(sum(&[0; 64]), 0);
        assert_eq!(sum(&[0xff; 64]), 0xffff);
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0), 0);
        assert_eq!(fold(0xffff_0000), 0xffff);
    }

    #[test]
    fn many_words_do_not_overflow() {
        let data = vec![0xff; 70_000];
        assert_eq!(sum(&data), 0xffff);
    }
}
