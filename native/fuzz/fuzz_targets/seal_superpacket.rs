//! See [`meshnode_fuzz::seal_superpacket`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meshnode_fuzz::seal_superpacket::run(data));
