//! How many zeroes follow a packet before it is sealed (whitepaper 5.4.6, reference §2.2).

const MULTIPLE: usize = 16;

/// Zero bytes that follow a packet of `length` bytes: never beyond the MTU (0: no such limit).
#[inline]
pub fn padding(length: usize, mtu: usize) -> usize {
    let last = if mtu == 0 || length <= mtu { length } else { length % mtu };
    let padded = last.next_multiple_of(MULTIPLE);
    (if mtu == 0 { padded } else { padded.min(mtu) }) - last
}

#[cfg(test)]
mod tests {
    use super::padding;

    #[test]
    fn never_beyond_the_mtu() {
        for (length, mtu, expected) in [
            (0, 1280, 0),
            (1, 1280, 15),
            (1280, 1280, 0),
            (1411, 1420, 9),
            (1420, 1420, 0),
            (1421, 1420, 15),
            (17, 0, 15),
        ] {
            assert_eq!(padding(length, mtu), expected, "{length} bytes at MTU {mtu}");
        }
    }
}
