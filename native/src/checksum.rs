//! The Internet checksum (RFC 1071).
//!
//! One's-complement sums may be taken in words of any size and in either byte order: the words here are native
//! ones of 32 bits, whose halves are added up by loops that the compiler makes vectors of, and the bytes are
//! swapped once at the end.

/// Bytes whose sums of halves cannot overflow 32 bits: a multiple of 4.
const PART: usize = 128 * 1024;

/// Bytes from which on wider vectors pay for the question whether the processor has them.
#[cfg(target_arch = "x86_64")]
const VECTORS_FROM: usize = 128;

/// What is left of a packet behind its last whole word.
#[inline(always)]
fn last_word(rest: &[u8]) -> u64 {
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    u64::from(u32::from_ne_bytes(last))
}

/// From a sum of native words to the folded one of big-endian words.
#[inline(always)]
fn to_big_endian(total: u64) -> u64 {
    u64::from(u16::from_be(fold(total)))
}

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
    #[cfg(target_arch = "x86_64")]
    if data.len() >= VECTORS_FROM && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function was compiled for, and that is all it asks for.
        return unsafe { sum_avx2(data) };
    }
    sum_words(data)
}

/// Copy `from` to `to`, of the same length, and return its sum: one pass over the memory for both.
#[inline]
pub fn copy_and_sum(from: &[u8], to: &mut [u8]) -> u64 {
    assert_eq!(from.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    if from.len() >= VECTORS_FROM && is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        return unsafe { copy_and_sum_avx2(from, to) };
    }
    copy_and_sum_words(from, to)
}

/// [`sum`] for a handful of bytes, without the preparations that pay for long data only.
#[inline]
pub fn sum_short(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<4>();
    to_big_endian(
        words.iter().fold(last_word(rest), |total, word| total + u64::from(u32::from_ne_bytes(*word))),
    )
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(data: &[u8]) -> u64 {
    sum_words(data)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn copy_and_sum_avx2(from: &[u8], to: &mut [u8]) -> u64 {
    copy_and_sum_words(from, to)
}

#[inline(always)]
fn sum_words(data: &[u8]) -> u64 {
    let mut total = 0;
    for part in data.chunks(PART) {
        let (words, rest) = part.as_chunks::<4>();
        let (mut low, mut high) = (0u32, 0u32);
        for word in words {
            let word = u32::from_ne_bytes(*word);
            low += word & 0xffff;
            high += word >> 16;
        }
        total += u64::from(low) + u64::from(high) + last_word(rest);
    }
    to_big_endian(total)
}

#[inline(always)]
fn copy_and_sum_words(from: &[u8], to: &mut [u8]) -> u64 {
    let mut total = 0;
    for (from, to) in from.chunks(PART).zip(to.chunks_mut(PART)) {
        let (words, rest) = from.as_chunks::<4>();
        let (copies, rest_copy) = to.as_chunks_mut::<4>();
        let (mut low, mut high) = (0u32, 0u32);
        for (bytes, copy) in words.iter().zip(copies) {
            let word = u32::from_ne_bytes(*bytes);
            *copy = *bytes;
            low += word & 0xffff;
            high += word >> 16;
        }
        rest_copy.copy_from_slice(rest);
        total += u64::from(low) + u64::from(high) + last_word(rest);
    }
    to_big_endian(total)
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
            let expected = slow_sum(&data[..length]);
            let mut copy = vec![0; length];
            assert_eq!(sum(&data[..length]), expected, "{length} bytes");
            assert_eq!(sum_short(&data[..length]), expected, "{length} bytes");
            assert_eq!(copy_and_sum(&data[..length], &mut copy), expected, "{length} bytes");
            assert_eq!(copy, data[..length]);
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
        let mut data = vec![0xff; 5 << 20];
        assert_eq!(sum(&data), 0xffff);
        let copy = data.clone();
        assert_eq!(copy_and_sum(&copy, &mut data), 0xffff);
    }
}
