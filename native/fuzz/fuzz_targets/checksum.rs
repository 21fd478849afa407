//! See [`meshnode_fuzz::checksum`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meshnode_fuzz::checksum::run(data));
