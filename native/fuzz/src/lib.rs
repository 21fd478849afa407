//! Hostile bytes for the batch kernel. A target is one module with `run`, which takes whatever bytes there are,
//! makes calls of the kernel out of them, and panics when the kernel does what it must not.
//!
//! What is expected comes from models that are as plain as can be ([`packets`], [`segmentation`], [`arrivals`],
//! [`receiving`] and those in the targets), written without the kernel's code; only the cipher is the kernel's. So
//! every run compares the whole outcome, not just that there was one.

pub mod arrivals;
pub mod count;
pub mod input;
pub mod packets;
pub mod reads;
pub mod receiving;
pub mod segmentation;

pub mod allowed_ips;
pub mod checksum;
pub mod coalesce;
pub mod gate;
pub mod open_batch;
pub mod replay;
pub mod seal_superpacket;
pub mod segments;

/// A body by its name.
pub type Target = (&'static str, fn(&[u8]));

/// Every target there is.
pub const TARGETS: &[Target] = &[
    ("allowed_ips", allowed_ips::run),
    ("checksum", checksum::run),
    ("coalesce", coalesce::run),
    ("gate", gate::run),
    ("open_batch", open_batch::run),
    ("replay", replay::run),
    ("seal_superpacket", seal_superpacket::run),
    ("segments", segments::run),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look random and are the same in every run (xorshift).
    fn noise(mut state: u64, length: usize) -> Vec<u8> {
        let mut step = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..length).map(|_| step()).collect()
    }

    #[test]
    fn every_target_runs() {
        for (name, run) in TARGETS {
            run(&[]);
            for seed in 1..200 {
                println!("{name}: seed {seed}");
                run(&noise(0x9e37_79b9_7f4a_7c15 ^ seed << 32, seed as usize * 5));
            }
        }
    }
}
