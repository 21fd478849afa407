//! How many frames and superpackets went through the kernel: one input of a target can be a batch of two hundred.

use std::cell::Cell;

/// Says the number when the process ends, in the manner of libFuzzer's own final numbers.
struct Count(Cell<u64>);

impl Drop for Count {
    fn drop(&mut self) {
        eprintln!("stat::number_of_frames: {}", self.0.get());
    }
}

thread_local! {
    static FRAMES: Count = const { Count(Cell::new(0)) };
}

/// So many more.
pub fn add(frames: usize) {
    FRAMES.with(|count| count.0.set(count.0.get() + frames as u64));
}
