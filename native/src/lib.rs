//! The batch kernel, compiled: what happens per packet, called once per TUN read or per receive.
//!
//! It is the twin of `meshnode/dataplane/reference.py`, which is the definition of correct: same bytes, same
//! drops, same limits, same errors, which `tests/meshnode/dataplane/test_twins.py` checks. It knows no state of
//! the protocol beyond the sessions and tables that it is handed, and starts no thread. Only [`fast_path`] calls
//! the operating system, on descriptors of the caller.
//!
//! The modules here are the kernel, free of Python and of `unsafe` (but for the memory of keys, see [`aead`]);
//! [`python`] makes the module `meshnode._native` of them. "Reference §…" means the numbered sections that the
//! Python twins cite too.

pub mod aead;
pub mod allowed_ips;
pub mod checksum;
pub mod coalesce;
pub mod drops;
pub mod fast_path;
pub mod gate;
pub mod group;
pub mod open;
pub mod padding;
#[cfg(feature = "python")]
mod python;
pub mod replay;
pub mod seal;
pub mod session;
pub mod superpacket;
mod sys;
pub mod table;
pub mod turn;
pub mod virtio;
pub mod wire;
