//! See [`meshnode_fuzz::gate`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meshnode_fuzz::gate::run(data));
