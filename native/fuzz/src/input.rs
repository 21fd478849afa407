//! The bytes of one run, taken from the front one after another. When none are left, everything is 0: a prefix of
//! an input still means what it meant, which is what lets libFuzzer shorten one.

/// What is left of them.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `data` is left.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Up to `length` bytes.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// One byte, as a choice of `0..limit`; `limit` is at most 256.
    pub fn choice(&mut self, limit: usize) -> usize {
        usize::from(self.u8()) % limit
    }

    /// Two bytes, as a number of `0..=limit`.
    pub fn up_to(&mut self, limit: usize) -> usize {
        usize::from(self.u16()) % (limit + 1)
    }

    /// True about once in `times`; never when nothing is left.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.choice(times) == times - 1
    }
}
