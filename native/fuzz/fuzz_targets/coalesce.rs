//! See [`meshnode_fuzz::coalesce`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| meshnode_fuzz::coalesce::run(data));
