//! The checksum's fast ways, at every length and alignment, against RFC 1071 word by word.

use _native::checksum::{complement, copy_and_sum, fold, sum, sum_short};

use crate::input::Input;
use crate::packets::slow_sum;

/// One piece of memory.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (start, repeats) = (input.choice(64), if input.once_in(16) { 100 } else { 1 });
    let total = input.u64();
    let piece = input.bytes(usize::MAX);
    let mut all = vec![0; start];
    for _ in 0..repeats {
        all.extend(piece);
    }
    let bytes = &all[start..];
    let expected = u64::from(slow_sum(bytes));
    assert_eq!(sum(bytes), expected);
    assert_eq!(sum_short(bytes), expected);
    let mut copy = vec![0xee; bytes.len() + 1];
    assert_eq!(copy_and_sum(bytes, &mut copy[1..]), expected);
    assert_eq!(copy[1..], *bytes);
    // Any order and any grouping of a sum is right, so this one is too.
    let folded = slow_sum(&total.to_be_bytes());
    assert_eq!(fold(total), folded);
    assert_eq!(complement(total), !folded);
}
