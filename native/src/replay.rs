//! The replay window of one receiving key (RFC 6479): each counter is accepted once, and not when it is too old.

/// `REJECT_AFTER_MESSAGES`: the first counter that is neither sent nor accepted (reference §2.3).
pub const COUNTER_LIMIT: u64 = u64::MAX - (1 << 13);
/// How far behind the greatest counter one may still be accepted.
pub const REPLAY_WINDOW: u64 = 8128;

const WORDS: u64 = 128;

/// A ring of bits, one of its words always being recycled. Call it only after the tag of the datagram verified:
/// a forged counter must not move the window.
#[derive(Debug)]
pub struct ReplayWindow {
    greatest: u64,
    ring: [u64; WORDS as usize],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { greatest: 0, ring: [0; WORDS as usize] }
    }
}

impl ReplayWindow {
    /// Mark `counter` as seen. False, and nothing changes, if it was seen, is too old or at the limit.
    #[inline]
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter >= COUNTER_LIMIT {
            return false;
        }
        let word = counter >> 6;
        if counter > self.greatest {
            let current = self.greatest >> 6;
            for step in 1..=(word - current).min(WORDS) {
                self.ring[(current + step) as usize % WORDS as usize] = 0;
            }
            self.greatest = counter;
        } else if self.greatest - counter > REPLAY_WINDOW {
            return false;
        }
        let bit = 1 << (counter & 63);
        let seen = &mut self.ring[word as usize % WORDS as usize];
        let is_new = *seen & bit == 0;
        *seen |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(counters: &[u64]) -> Vec<bool> {
        let mut window = ReplayWindow::default();
        counters.iter().map(|&counter| window.accept(counter)).collect()
    }

    #[test]
    fn once_each() {
        assert_eq!(accepted(&[0, 0, 1, 1, 5, 3, 3, 4]), [true, false, true, false, true, true, false, true]);
    }

    #[test]
    fn the_edges_of_the_window() {
        assert_eq!(accepted(&[8129, 0, 1, 2]), [true, false, true, true]);
        assert_eq!(accepted(&[20_000, 20_000 - 8128, 20_000 - 8129]), [true, true, false]);
    }

    #[test]
    fn the_limit() {
        assert_eq!(accepted(&[COUNTER_LIMIT, COUNTER_LIMIT - 1, u64::MAX, 0]), [false, true, false, false]);
        assert_eq!(COUNTER_LIMIT, u64::MAX - 8192);
    }

    #[test]
    fn a_jump_forgets_what_it_passes() {
        assert_eq!(
            accepted(&[1, 1 << 40, 1, (1 << 40) - 1, (1 << 40) - 1]),
            [true, true, false, true, false]
        );
    }
}
