//! See [`meshnode_fuzz::open_batch`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meshnode_fuzz::open_batch::run(data));
