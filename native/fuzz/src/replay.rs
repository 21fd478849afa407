//! The replay window, against a set of all that was ever seen.

use std::collections::BTreeSet;

use _native::replay::{COUNTER_LIMIT, REPLAY_WINDOW, ReplayWindow};

use crate::input::Input;

/// What a window that forgets nothing does.
#[derive(Default)]
pub struct Model(BTreeSet<u64>);

impl Model {
    /// Whether `counter` is new, not too old, and below the limit.
    pub fn accept(&mut self, counter: u64) -> bool {
        let greatest = self.0.last().copied().unwrap_or(0);
        counter < COUNTER_LIMIT && greatest.saturating_sub(counter) <= REPLAY_WINDOW && self.0.insert(counter)
    }
}

/// The counter of a datagram, mostly near the one before.
pub fn counter(input: &mut Input, before: u64) -> u64 {
    let step = u64::from(input.u8());
    match step {
        0..128 => before.wrapping_add(step % 8),
        128..160 => before.wrapping_sub(step - 128),
        160..192 => before.wrapping_add(64 * (step - 160)),
        192..216 => before.wrapping_sub(64 * (step - 192)),
        216..228 => before.wrapping_sub(REPLAY_WINDOW + 222).wrapping_add(step),
        228..240 => before.wrapping_add(REPLAY_WINDOW - 232).wrapping_add(step),
        240..244 => COUNTER_LIMIT.wrapping_add(step).wrapping_sub(242),
        244..250 => before.wrapping_add(u64::from(input.u16())),
        250..254 => before.wrapping_sub(u64::from(input.u16())),
        _ => input.u64(),
    }
}

/// A conversation's counters.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut window, mut model) = (ReplayWindow::default(), Model::default());
    let mut last = 0;
    while !input.is_empty() {
        last = counter(&mut input, last);
        assert_eq!(window.accept(last), model.accept(last), "counter {last}");
    }
}
