//! See [`meshnode_fuzz::replay`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meshnode_fuzz::replay::run(data));
