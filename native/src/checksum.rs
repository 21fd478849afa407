//! The Internet checksum (RFC 1071).
//!
//! One's-complement sums may be taken in words of any size and in either byte order: the words here are native
//! ones of 32 bits, whose halves are added up by loops that the compiler makes vectors of, and the bytes are
//! swapped once at the end.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Bytes of a vector.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 32;

/// Bytes whose sums of halves cannot overflow 32 bits: a multiple of 4.
const PART: usize = 128 * 1024;

/// Bytes from which on wider vectors pay for the question whether the processor has them.
#[cfg(target_arch = "x86_64")]
const VECTORS_FROM: usize = 128;

/// What is left of a packet behind its last whole word.
#[inline(always)]
fn last_word(rest: &[u8]) -> u64 {
    let last = match *rest {
        [a] => [a, 0, 0, 0],
        [a, b] => [a, b, 0, 0],
        [a, b, c] => [a, b, c, 0],
        _ => return 0,
    };
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

/// Sums of 16-bit words, side by side.
///
/// There is no instruction that adds unsigned words to wider ones, but one that multiplies signed ones and adds
/// up pairs of products: so every word is taken as what it exceeds 32768 by, times one.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Vectors(__m256i);

#[cfg(target_arch = "x86_64")]
impl Vectors {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn zero() -> Self {
        Self(_mm256_setzero_si256())
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn add(self, block: &[u8; BLOCK]) -> Self {
        let (halves, _) = block.as_chunks::<16>();
        let half = |k: usize| {
            let bytes = u128::from_le_bytes(halves[k]);
            _mm_set_epi64x((bytes >> 64) as i64, bytes as i64)
        };
        let vector = _mm256_set_m128i(half(1), half(0)); // all of that is one load
        let excess = _mm256_xor_si256(vector, _mm256_set1_epi16(i16::MIN));
        Self(_mm256_add_epi32(self.0, _mm256_madd_epi16(excess, _mm256_set1_epi16(1))))
    }

    /// The sum after so many blocks.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn total(self, other: Self, blocks: usize) -> u64 {
        let sums = _mm256_add_epi32(self.0, other.0);
        let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        let sums = _mm_add_epi32(sums, _mm_shuffle_epi32(sums, 0b_01_00_11_10));
        let excess = _mm_cvtsi128_si32(sums) + _mm_extract_epi32(sums, 1);
        (i64::from(excess) + (blocks * BLOCK / 2) as i64 * 0x8000) as u64
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(mut data: &[u8]) -> u64 {
    let mut total = 0;
    while let Some((part, rest)) = data.split_at_checked(PART) {
        total += sum_part(part);
        data = rest;
    }
    to_big_endian(total + sum_part(data))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn sum_part(part: &[u8]) -> u64 {
    let (blocks, rest) = part.as_chunks::<BLOCK>();
    let (pairs, last) = blocks.as_chunks::<2>();
    let (mut even, mut odd) = (Vectors::zero(), Vectors::zero());
    for [first, second] in pairs {
        even = even.add(first);
        odd = odd.add(second);
    }
    if let [block] = last {
        even = even.add(block);
    }
    even.total(odd, blocks.len()) + rest_sum(rest)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn copy_and_sum_avx2(mut from: &[u8], mut to: &mut [u8]) -> u64 {
    let mut total = 0;
    while from.len() > PART {
        let (part, rest) = from.split_at(PART);
        let (copy, rest_copy) = to.split_at_mut(PART);
        total += copy_and_sum_part(part, copy);
        (from, to) = (rest, rest_copy);
    }
    to_big_endian(total + copy_and_sum_part(from, to))
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn copy_and_sum_part(part: &[u8], copy: &mut [u8]) -> u64 {
    let (blocks, rest) = part.as_chunks::<BLOCK>();
    let (block_copies, _) = copy.as_chunks_mut::<BLOCK>();
    let (pairs, last) = blocks.as_chunks::<2>();
    let (pair_copies, last_copy) = block_copies.as_chunks_mut::<2>();
    let (mut even, mut odd) = (Vectors::zero(), Vectors::zero());
    // Two at a time, or the compiler sees a call of `memcpy` in it, and a second pass for the sum.
    for ([first, second], [first_copy, second_copy]) in pairs.iter().zip(pair_copies) {
        *first_copy = *first;
        *second_copy = *second;
        even = even.add(first);
        odd = odd.add(second);
    }
    if let ([block], [block_copy]) = (last, last_copy) {
        *block_copy = *block;
        even = even.add(block);
    }
    match (part.last_chunk::<BLOCK>(), copy.last_chunk_mut::<BLOCK>()) {
        (Some(end), Some(end_copy)) => *end_copy = *end, // the rest, and what is there already
        _ => copy.copy_from_slice(part),
    }
    even.total(odd, blocks.len()) + rest_sum(rest)
}

/// The sum of the native words of what is shorter than a block.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn rest_sum(rest: &[u8]) -> u64 {
    let (words, rest) = rest.as_chunks::<4>();
    words.iter().fold(last_word(rest), |total, word| total + u64::from(u32::from_ne_bytes(*word)))
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
        assert_eq!(sum(&vec![0; 5 << 20]), 0);
        let mut data = vec![0xff; 5 << 20];
        assert_eq!(sum(&data), 0xffff);
        let copy = data.clone();
        assert_eq!(copy_and_sum(&copy, &mut data), 0xffff);
    }
}
